"""Which nodes of a fleet a tree hits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import assert_never

from quarterdeck.core import liveness
from quarterdeck.core.label import GROUP, effective, values_of
from quarterdeck.core.model import Node, Record
from quarterdeck.core.target.read import (
    Atom,
    Both,
    Draining,
    Either,
    Every,
    InState,
    Inverse,
    Labelled,
    Named,
    OnSystem,
    Tree,
    WithId,
    parse,
)
from quarterdeck.core.target.values import Values, bits, first_and_end
from quarterdeck.errors import Conflict


class Hits(Record, frozen=True, kw_only=True):
    """What came of a text: its tree, and the nodes by name, then id."""

    tree: Tree
    nodes: tuple[Node, ...]


def resolve(text: str, nodes: Iterable[Node], now: datetime) -> list[Node]:
    """The nodes a target hits, sorted by name, then id. Raises as `resolved`."""
    return list(resolved(text, nodes, now).nodes)


def resolved(text: str, nodes: Iterable[Node], now: datetime) -> Hits:
    """What a target hits. A node that nobody approved yet is no part of the fleet.

    Raises Invalid when the text can't be read, and Conflict when a plain name (no glob, no
    operator) or the beginning of an id belongs to more than one node.
    """
    tree = parse(text)
    fleet = Fleet([node for node in nodes if node.approved], now)
    hit = sorted(fleet.hit(tree), key=lambda node: (node.name, node.id))
    if len(hit) > 1 and isinstance(tree, Named) and _alone(tree, text):
        raise several(
            f"{len(hit)} nodes are named {tree.word.text!r}: use an id", hit, position=tree.at
        )
    return Hits(tree=tree, nodes=tuple(hit))


def several(what: str, nodes: Sequence[Node], *, position: int | None = None) -> Conflict:
    """The error about a word that means more than one node; names a few of them."""
    ids = ", ".join(node.id for node in nodes[:8])
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return Conflict("ambiguous_node", f"{what} ({ids}{more}).", position=position)


class Fleet:
    """Nodes at one moment, prepared for a tree of thousands of parts: the answer to each is a mask
    with one bit for each node, so that to combine two costs next to nothing.

    What a part asks for is looked up in tables that are made once, when the first part needs them.
    Only globs are compared with many values: `read.py` bounds how many globs there are, and a part
    looks only at the nodes that those before it have left open.
    """

    def __init__(self, nodes: Sequence[Node], now: datetime) -> None:
        self.nodes = nodes
        self._now = now
        self._everyone = (1 << len(nodes)) - 1
        self._of_key: dict[str, Values] = {}

    def hit(self, tree: Tree) -> list[Node]:
        """The nodes that a tree hits. Raises Conflict."""
        digits = bin(self.mask(tree))[:1:-1]
        return [node for digit, node in zip(digits, self.nodes, strict=False) if digit == "1"]

    def mask(self, tree: Tree) -> int:
        """The same as bits; the lowest is the first node's. Raises Conflict."""
        return self._mask(tree, self._everyone)

    def has(self, atom: Atom) -> bool:
        """Whether it hits any node: often known long before all are compared. Raises Conflict."""
        match atom:
            case Named(word=word, or_id=or_id):
                return self._names.has(word) or (or_id and word.text in self._ids)
            case Labelled(key=key, value=word):
                return self._labelled(key).has(word)
            case OnSystem(word=word):
                return self._systems.has(word)
            case _:
                return bool(self.mask(atom))

    def groups(self) -> list[str]:
        """Every group that a node is in."""
        return self.values(GROUP)

    def keys(self) -> list[str]:
        """The keys of all labels."""
        return sorted({key for labels in self._labels for key in labels})

    def values(self, key: str) -> list[str]:
        """The values of one label, over all nodes."""
        return self._labelled(key).sorted

    def _mask(self, tree: Tree, among: int) -> int:
        match tree:
            case Inverse(inner=inner):
                return among & ~self._mask(inner, among)
            case Both(parts=parts):
                for part in parts:  # also when none is left: a later one may raise
                    among = self._mask(part, among)
                return among
            case Either(parts=parts):
                hit = 0
                for part in parts:
                    hit |= self._mask(part, among & ~hit)
                return hit
            case _:
                return self._atom(tree, among) & among

    def _atom(self, atom: Atom, among: int) -> int:
        match atom:
            case Every():
                return among
            case Draining():
                return self._draining
            case InState(state=state):
                return self._states.get(state, 0)
            case Named(word=word, or_id=or_id):
                named = self._names.find(word, among)
                return named | self._with_id(word.text) if or_id else named
            case WithId(prefix=prefix, at=at):
                return self._with_id(self._whole_id(prefix, at))
            case Labelled(key=key, value=word):
                return self._labelled(key).find(word, among)
            case OnSystem(word=word):
                return self._systems.find(word, among)
            case _:
                assert_never(atom)

    def _with_id(self, id: str) -> int:
        place = self._ids.get(id)
        return 0 if place is None else 1 << place

    def _whole_id(self, prefix: str, at: int) -> str:
        if prefix in self._ids:
            return prefix
        first, end = first_and_end(self._sorted_ids, prefix)
        if end - first > 1:
            found = [node for node in self.nodes if node.id.startswith(prefix)]
            what = f"The ids of {len(found)} nodes begin with {prefix[:64]!r}: give more characters"
            raise several(what, found, position=at)
        return self._sorted_ids[first] if end > first else ""

    @cached_property
    def _draining(self) -> int:
        return bits(place for place, node in enumerate(self.nodes) if node.draining)

    @cached_property
    def _states(self) -> dict[str, int]:
        found: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            found.setdefault(liveness.state(node, self._now).value, []).append(place)
        return {state: bits(places) for state, places in found.items()}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {node.id: place for place, node in enumerate(self.nodes)}

    @cached_property
    def _sorted_ids(self) -> list[str]:
        return sorted(self._ids)

    @cached_property
    def _names(self) -> Values:
        return Values((node.name, place) for place, node in enumerate(self.nodes))

    @cached_property
    def _systems(self) -> Values:
        return Values((node.facts.os, place) for place, node in enumerate(self.nodes))

    def _labelled(self, key: str) -> Values:
        found = self._of_key.get(key)
        if found is None:
            found = self._of_key[key] = Values(
                (value, place)
                for place, labels in enumerate(self._labels)
                for value in values_of(labels, key)
            )
        return found

    @cached_property
    def _labels(self) -> list[Mapping[str, str]]:
        """The effective labels of each node, put together once."""
        return [effective(node) for node in self.nodes]


def _alone(tree: Named, text: str) -> bool:
    """Whether the text is this one plain word: `(web1)` and `name:web1` say that all are meant."""
    return tree.or_id and tree.word.plain and text.strip()[:1] != "("
