"""What people decide about nodes: names, labels, drain, approval; and the loop that hears of it.

A decision is one guarded write (store/node.py); the server that made it tells the others, who read
it. `follow_decisions` waits for a tick of `TICK_S` and finds what was not heard: a lost message, or
a node that another server admitted and that never beats because it waits for approval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from quarterdeck.control.lease import Leases
from quarterdeck.control.observe import Fleet
from quarterdeck.control.step import write_guarded
from quarterdeck.core.ids import check_name
from quarterdeck.core.label import changed, check_key, groups_of
from quarterdeck.core.model import Node
from quarterdeck.core.target import OPERATORS, WORDS, several
from quarterdeck.errors import Conflict, Invalid, NotFound
from quarterdeck.service import Poke
from quarterdeck.store import node as node_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import NodeDecided, Telemetry

TICK_S = 5.0


class Nodes:
    """What the API calls. `word` is a name, an id, or the beginning of an id; every call raises
    NotFound, and Conflict for a word of several nodes."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        leases: Leases,
        telemetry: Telemetry,
        dispatch: Poke,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._leases = leases
        self._telemetry = telemetry
        self._dispatch = dispatch

    def named(self, word: str) -> Node:
        return named(self._fleet.every(), word)

    async def label(
        self,
        word: str,
        *,
        put: Mapping[str, str],
        drop: Sequence[str] = (),
        join: Sequence[str] = (),
        leave: Sequence[str] = (),
        by: str,
    ) -> Node:
        """Change the server's labels of a node; `join` and `leave` name groups. Raises Invalid for
        what can't be a label, Conflict for what only the node's own settings can take away."""
        for key in drop:
            check_key(key)

        def change(node: Node) -> Node:
            own = [key for key in drop if key in node.labels and key not in node.server_labels]
            own += [f"group={group}" for group in leave if group in groups_of(node.labels)]
            if own:
                raise Conflict(
                    "own_label",
                    f"The label {own[0]} of {node.name} comes from the settings of its agent: take "
                    "it away there (`[labels]`), or set another value here.",
                )
            labels = changed(node.server_labels, put=put, drop=drop, join=join, leave=leave)
            return msgspec.structs.replace(node, server_labels=labels)

        return await self._decide(word, change, "labelled", by)

    async def rename(self, word: str, name: str, *, by: str) -> Node:
        """Show a node under this name, whatever its agent says; an empty one gives its own back.
        Raises Invalid."""
        if name:
            check_name(name)
        if name in (*WORDS, *OPERATORS):
            raise Invalid("node_name", f"{name!r} is a word of targets: choose another name.")
        return await self._decide(word, partial(_replaced, given_name=name), "renamed", by)

    async def drain(self, word: str, draining: bool, *, by: str) -> Node:
        """Whether new work is kept off a node; what runs there runs on."""
        what = "drained" if draining else "undrained"
        return await self._decide(word, partial(_replaced, draining=draining), what, by)

    async def approve(self, word: str, *, by: str) -> Node:
        """Let a node in that waits for it."""
        return await self._decide(word, partial(_replaced, approved=True), "approved", by)

    async def follow_decisions(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._leases.alone():
                continue
            recorded = await self._database.read(node_store.decisions)
            present = {node.id: node.decision for node in self._fleet.every()}
            missed = {id for id, number in recorded.items() if present.get(id, -1) < number}
            if missed:
                for node in await self._database.read(partial(node_store.some, ids=missed)):
                    self._fleet.know(node, here=False)

    async def _decide(self, word: str, change: Callable[[Node], Node], what: str, by: str) -> Node:
        node = self.named(word)

        def unit(tx: Tx) -> tuple[Node, bool]:
            before = node_store.get(tx, node.id)
            if before is None or before.removed:
                raise not_found(word)
            after = change(before)
            if after == before:
                return before, False
            return node_store.decide(tx, before, after), True

        after, news = await write_guarded(self._database, unit)
        self._fleet.know(after)
        if news:
            self._telemetry.emit(NodeDecided(node=node.id, name=node.name, what=what, by=by))
        self._dispatch(node.id)
        return self._fleet.get(node.id)


def named(nodes: Sequence[Node], word: str) -> Node:
    """The node with this id or name, or whose id begins so. Raises NotFound and Conflict."""
    found = (
        [node for node in nodes if node.id == word]
        or [node for node in nodes if node.name == word]
        or [node for node in nodes if word and node.id.startswith(word)]
    )
    if not found:
        raise not_found(word)
    if len(found) > 1:
        raise several(f"{len(found)} nodes are meant by {word[:64]!r}: use an id", found)
    return found[0]


def not_found(word: str) -> NotFound:
    return NotFound("node_not_found", f"There is no node {word[:80]!r}; `qd nodes` lists them.")


def _replaced(node: Node, **fields: object) -> Node:
    given = str(fields.get("given_name", node.given_name))
    name = given or node.own_name or node.name
    return msgspec.structs.replace(node, name=name, **fields)
