"""The removal loop: a node that was removed gets no orders, is not believed, and loses its link.

Waits for: pokes of `remove`, and a tick of `TICK_S` in which removals on other servers are seen.
The database says who is removed; the loop brings everything else to agree with it: this server's
table of nodes, the attempts that are still open, and the revocations of the fabric. So each step
may be lost to a crash and is done again. A removal is final: the machine may come back with a new
key as a new node.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from quarterdeck.control.ingest import Ingest
from quarterdeck.control.node import named
from quarterdeck.control.observe import Fleet
from quarterdeck.control.parts import Revoke
from quarterdeck.core import attempt as machine
from quarterdeck.core.model import Attempt, Node
from quarterdeck.service import Clock, Poke, still_wanted
from quarterdeck.store import node as node_store
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import NodeRemoved, Telemetry

TICK_S = 1.0


class Removals:
    """`remove` is what the API calls; `revoke` voids passes on the fabric."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        ingest: Ingest,
        clock: Clock,
        telemetry: Telemetry,
        revoke: Revoke,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._ingest = ingest
        self._clock = clock
        self._telemetry = telemetry
        self._revoke = revoke
        self._asked = Poke()
        self._revoked: dict[str, datetime] | None = None

    async def remove(self, word: str, *, by: str) -> Node:
        """Remove the node with this id or name. Raises NotFound, and Conflict for a name of
        several."""
        node = named(self._fleet.every(), word)
        now = self._clock.now()
        if await self._database.write(partial(node_store.remove, node_id=node.id, now=now)):
            self._telemetry.emit(NodeRemoved(node=node.id, name=node.name, by=by))
        self._asked(node.id)
        return node

    async def cut_off(self) -> None:
        """Loop: see the module's theory."""
        removed: dict[str, tuple[str, datetime]] = {}
        while True:
            unit = partial(node_store.removed, known=len(removed))
            found = await self._database.read(unit)
            removed = removed if found is None else found
            for id in removed:
                self._fleet.forget(id)
            if removed:
                await self._end_attempts()
            keys = dict(removed.values())
            if keys != self._revoked:
                await self._revoke(keys)
                self._revoked = keys
                still_wanted()  # a dial may have swallowed the end of the loop
            await self._asked.wait(TICK_S)

    async def _end_attempts(self) -> None:
        """What never left fails, what may run is lost, what was archived is released."""

        def unit(tx: Tx) -> list[tuple[Attempt, Attempt]]:
            now = self._clock.now()
            return [
                (attempt, after)
                for attempt in run_store.open_of_removed(tx)
                if (after := machine.step(attempt, machine.NodeRemoved(), now)) is not attempt
            ]

        if await self._database.read(unit):
            await self._ingest.change(unit)
