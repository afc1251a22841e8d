"""Which nodes of a fleet a tree hits. Each atom is prepared once for the fleet it is asked of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import assert_never

from quarterdeck.core import liveness
from quarterdeck.core.label import effective, values_of
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
    Word,
    parse,
    pattern,
)
from quarterdeck.errors import Conflict

Match = Callable[[Node], bool]


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
    fleet = [node for node in nodes if node.approved]
    match = matcher(tree, fleet, now)
    hit = sorted((node for node in fleet if match(node)), key=lambda node: (node.name, node.id))
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


def matcher(tree: Tree, fleet: Sequence[Node], now: datetime) -> Match:
    """A predicate over the nodes of this fleet. Raises Conflict."""
    match tree:
        case Inverse(inner=inner):
            found = matcher(inner, fleet, now)
            return lambda node: not found(node)
        case Both(parts=parts):
            all_of = [matcher(part, fleet, now) for part in parts]
            return lambda node: all(part(node) for part in all_of)
        case Either(parts=parts):
            return _either(parts, fleet, now)
        case _:
            return _atom(tree, fleet, now)


def _either(parts: Sequence[Tree], fleet: Sequence[Node], now: datetime) -> Match:
    """Plain names are looked up together: a target may list thousands."""
    names = frozenset(p.word.text for p in parts if isinstance(p, Named) and p.word.plain)
    ids = frozenset(p.word.text for p in parts if isinstance(p, Named) and p.word.plain and p.or_id)
    any_of = [
        matcher(part, fleet, now)
        for part in parts
        if not (isinstance(part, Named) and part.word.plain)
    ]
    return lambda node: node.name in names or node.id in ids or any(part(node) for part in any_of)


def _atom(atom: Atom, fleet: Sequence[Node], now: datetime) -> Match:
    match atom:
        case Every():
            return lambda node: True
        case Draining():
            return lambda node: node.draining
        case InState(state=state):
            return lambda node: liveness.state(node, now).value == state
        case Named(word=word, or_id=or_id):
            name = _text(word)
            return lambda node: name(node.name) or (or_id and node.id == word.text)
        case WithId(prefix=prefix, at=at):
            id = _whole_id(prefix, fleet, at)
            return lambda node: node.id == id
        case Labelled(key=key, value=word):
            value = _text(word)
            return lambda node: any(map(value, values_of(effective(node), key)))
        case OnSystem(word=word):
            system = _text(word)
            return lambda node: system(node.facts.os)
        case _:
            assert_never(atom)


def _text(word: Word) -> Callable[[str], bool]:
    if word.plain:
        return lambda text: text == word.text
    found = pattern(word)
    return lambda text: found.match(text) is not None


def _whole_id(prefix: str, fleet: Sequence[Node], at: int) -> str | None:
    found = [node for node in fleet if node.id.startswith(prefix)]
    if len(found) > 1 and not any(node.id == prefix for node in found):
        what = f"The ids of {len(found)} nodes begin with {prefix[:64]!r}: give more characters"
        raise several(what, found, position=at)
    if len(found) > 1:
        return prefix
    return found[0].id if found else None


def _alone(tree: Named, text: str) -> bool:
    """Whether the text is this one plain word: `(web1)` and `name:web1` say that all are meant."""
    return tree.or_id and tree.word.plain and text.strip()[:1] != "("
