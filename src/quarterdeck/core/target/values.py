"""The values that the nodes of a fleet have in one field, and which of them a word stands for.

To compare ten thousand names with a glob takes milliseconds, so first what can't fit is left out:
names that begin otherwise, by order; names without its longest literal part, by one search in a
text of all names; and where few nodes are asked about, the names of others.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

from quarterdeck.core.target.read import GLOB_CHARACTERS, Word, pattern

FEW = 256  # nodes: their values are found quicker than those of all
DENSE = 8  # when one value of so many has the literal part, all are compared
BETWEEN = "\0"
ONE = ord("1")


class Values:
    """Pairs of a value and the place of a node that has it."""

    def __init__(self, pairs: Iterable[tuple[str, int]]) -> None:
        self._places: dict[str, list[int]] = {}
        for value, place in pairs:
            self._places.setdefault(value, []).append(place)

    @cached_property
    def sorted(self) -> list[str]:
        return sorted(self._places)

    def find(self, word: Word, among: int) -> int:
        """The nodes with a value that a word stands for; those not `among` may be left out."""
        if word.plain:
            return bits(self._places.get(word.text, ()))
        if not among:
            return 0
        fitting = self._fitting(word, among)
        return bits(chain.from_iterable(map(self._places.__getitem__, fitting)))

    def has(self, word: Word) -> bool:
        """Whether a word stands for any value."""
        if word.plain:
            return word.text in self._places
        return any(True for _ in self._fitting(word, -1))

    def _fitting(self, word: Word, among: int) -> Iterable[str]:
        if among >= 0 and among.bit_count() <= FEW:
            return filter(pattern(word).match, self._of(among))
        begins = GLOB_CHARACTERS.split(word.glob, maxsplit=1)[0]
        first, end = first_and_end(self.sorted, begins)
        if word.glob == begins + "*":
            return self.sorted[first:end]
        return filter(pattern(word).match, self._near(_literal(word.glob), first, end))

    def _near(self, literal: str, first: int, end: int) -> Iterable[str]:
        """Among sorted values those that hold a text, or all when that is no help."""
        text, starts = self._text
        start, stop = starts[first], starts[end]
        if not literal or text.count(literal, start, stop) > (end - first) // DENSE:
            return self.sorted[first:end]
        found = []
        at = text.find(literal, start, stop)
        while at >= 0:
            place = bisect_right(starts, at) - 1
            found.append(self.sorted[place])
            at = text.find(literal, starts[place + 1], stop)
        return found

    def _of(self, among: int) -> set[str]:
        found: set[str] = set()
        while among:
            lowest = among & -among
            found.update(self._at.get(lowest.bit_length() - 1, ()))
            among ^= lowest
        return found

    @cached_property
    def _at(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for value, places in self._places.items():
            for place in places:
                found.setdefault(place, []).append(value)
        return found

    @cached_property
    def _text(self) -> tuple[str, list[int]]:
        """All values as one text, and where each begins; the last is where it ends."""
        starts = [0]
        for value in self.sorted:
            starts.append(starts[-1] + len(value) + len(BETWEEN))
        return "".join(value + BETWEEN for value in self.sorted), starts


def bits(places: Iterable[int]) -> int:
    """A mask with these bits."""
    found = list(places)
    digits = bytearray(b"0") * (max(found, default=0) + 1)
    for place in found:
        digits[place] = ONE
    return int(digits[::-1], 2)


def first_and_end(words: Sequence[str], prefix: str) -> tuple[int, int]:
    """Where among sorted words those are that begin so."""
    first = bisect_left(words, prefix)
    return first, bisect_right(words, prefix, lo=first, key=lambda word: word[: len(prefix)])


def _literal(glob: str) -> str:
    """The longest text that everything that fits a glob holds; empty where none is known."""
    return "" if "[" in glob else max(re.split(r"[*?]", glob), key=len)
