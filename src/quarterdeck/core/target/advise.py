"""Help for targets that hit less than they seem to: what names nothing, and what is near."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import assert_never

from quarterdeck.core.label import GROUP
from quarterdeck.core.model import Node, Record
from quarterdeck.core.target.match import Fleet
from quarterdeck.core.target.read import WORDS as KEYWORDS
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
)

LISTED = 8
NOTES = 5
LOOKED_AT = 400
LONGEST = 80


class Note(Record, frozen=True, kw_only=True):
    """Something in a target that hits no node: where it is, and a sentence about it."""

    position: int
    text: str


def notes(tree: Tree, nodes: Iterable[Node], now: datetime) -> list[Note]:
    """What in a target hits nobody of the fleet, in the order of the text: at most `NOTES`."""
    every = list(nodes)
    fleet = Fleet([node for node in every if node.approved], now)
    found: list[Note] = []
    for atom in _atoms(tree):
        if not fleet.has(atom):
            found.append(Note(position=atom.at, text=_about(atom, every, fleet)))
            if len(found) == NOTES:
                break
    return found


def suggest(tree: Tree, nodes: Sequence[Node], now: datetime) -> Note:
    """What helps after a target hit nothing."""
    if not any(node.approved for node in nodes):
        waiting = [node.name for node in nodes]
        text = "No node is enrolled yet: start one with `qd agent --join URL --token T`."
        return Note(position=0, text=_waits(waiting) if waiting else text)
    found = notes(tree, nodes, now)
    return found[0] if found else Note(position=0, text="Its parts hit no node in common.")


def _atoms(tree: Tree) -> Iterator[Atom]:
    match tree:
        case Inverse(inner=inner):
            yield from _atoms(inner)
        case Both(parts=parts) | Either(parts=parts):
            for part in parts:
                yield from _atoms(part)
        case _:
            yield tree


def _about(atom: Atom, nodes: Sequence[Node], fleet: Fleet) -> str:
    match atom:
        case Every():
            return "No node is enrolled."
        case Draining():
            return "No node is draining."
        case InState(state=state):
            return f"No node is {state}."
        case Named(word=word, or_id=or_id):
            return _about_name(word, nodes, fleet, or_id)
        case WithId(prefix=prefix):
            return f"The id of no node begins with {prefix[:LONGEST]!r}; `qd nodes --json` has ids."
        case Labelled(key=key, value=word) if key == GROUP:
            said = f"No node is in group {word.text[:LONGEST]!r}"
            known = fleet.groups()
            return f"{said}. {_near(word.text, known, 'Groups', 'No node is in any group.')}"
        case Labelled(key=key, value=word):
            return _about_label(key, word, fleet)
        case OnSystem(word=word):
            known = _some(node.facts.os for node in nodes if node.facts.os)
            said = f"No node runs {word.text[:LONGEST]!r}"
            return f"{said}. {_near(word.text, known, 'Systems', 'No node has said yet.')}"
        case _:
            assert_never(atom)


def _about_name(word: Word, nodes: Sequence[Node], fleet: Fleet, or_id: bool) -> str:
    text = word.text[:LONGEST]
    said = f"No node is named {text!r}" if word.plain else f"The name of no node fits {text!r}"
    if waiting := [node.name for node in nodes if not node.approved and node.name == word.text]:
        return _waits(waiting)
    known = _some(node.name for node in fleet.nodes)
    close = _close(text, known, 3)
    groups = fleet.groups()
    if or_id and word.text in groups:
        return f"{said}. Did you mean the group, group:{text}?"
    if not close and groups and (near := _close(text, groups, 1)):
        return f"{said}. Did you mean the group, group:{near[0]}?"
    if or_id and not close and (near := _close(text, KEYWORDS, 1)):
        return f"{said}. Did you mean `{near[0]}`?"
    return f"{said}. {_near(text, known, 'Nodes', 'There is none.')}"


def _about_label(key: str, word: Word, fleet: Fleet) -> str:
    keys = fleet.keys()
    if key not in keys:
        said = f"No node has a label {key[:LONGEST]!r}"
        return f"{said}. {_near(key, keys, 'Labels', 'No node has any label.')}"
    said = f"No node has the label {key}={word.text[:LONGEST]}"
    values = fleet.values(key)
    return f"{said}. {_near(word.text, values, 'Values', 'It has no value anywhere.')}"


def _near(text: str, known: Sequence[str], what: str, none: str) -> str:
    """What is near a word, else what there is."""
    if not known:
        return none
    if close := _close(text[:LONGEST], known, 3):
        return f"Did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:LISTED])
    more = len(known) - LISTED
    return f"{what}: {shown}, and {more} more." if more > 0 else f"{what}: {shown}."


def _close(text: str, known: Sequence[str], most: int) -> list[str]:
    """The most similar of sorted words: of very many only those that stand near it in their order
    are compared, as that takes a while."""
    first = max(0, bisect_left(known, text) - LOOKED_AT // 2)
    return get_close_matches(text, known[first : first + LOOKED_AT], n=most)


def _waits(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:LISTED])
    verb = "waits" if len(names) == 1 else "wait"
    return f"{shown} {verb} for approval: `qd node approve NODE` lets a node in."


def _some(words: Iterable[str]) -> list[str]:
    return sorted(set(words))
