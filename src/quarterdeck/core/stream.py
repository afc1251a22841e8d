"""Putting a stream together from chunks that may repeat, overlap, come late or be missing.

A chunk is (offset, bytes). A reader knows the next offset it wants; `splice` says what a chunk
means to it: what lies before is trimmed, what starts there is taken, what starts later leaves a gap
that somebody has to fetch.
"""

from __future__ import annotations

import msgspec

LIMIT_SLACK = 1 << 20
"""Over `max_output`: the sentences of the shim itself. So much is taken whatever the order."""
UNLIMITED_BYTES = 1 << 40
"""What an order without `max_output` may give: no node fills a disk or a screen with a lie."""


def most_output(max_output: int) -> int:
    """Bytes that an attempt under an order with this limit can have written."""
    return (max_output or UNLIMITED_BYTES) + LIMIT_SLACK


class Taken(msgspec.Struct, frozen=True):
    """Bytes that continue the stream at `offset`."""

    offset: int
    data: bytes


class Gap(msgspec.Struct, frozen=True):
    """Bytes from `start` up to `end` are missing before this chunk."""

    start: int
    end: int


def splice(wanted: int, offset: int, data: bytes) -> Taken | Gap | None:
    """What a chunk means for a reader that wants `wanted` next; None when it holds nothing new."""
    if offset > wanted:
        return Gap(wanted, offset)
    if offset + len(data) <= wanted:
        return None
    return Taken(wanted, data[wanted - offset :])


class Backwards:
    """Finds where the last `lines` lines of a stream begin, from its blocks read backwards.

    Only the number of line ends still to be found is kept, so a line may be of any length. A
    stream's last line counts with or without a line end.
    """

    def __init__(self, size: int, lines: int) -> None:
        self._position = size
        self._wanted = lines
        self._at_end = True

    def take(self, block: bytes) -> int | None:
        """The offset of the first wanted line once it is known, after the block that lies in front
        of what was taken before; None when the block before this one is needed."""
        start = self._position - len(block)
        if self._wanted <= 0:
            return self._position
        end = len(block) - (self._at_end and block.endswith(b"\n"))
        self._at_end = self._at_end and not block
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            self._wanted -= 1
            if self._wanted == 0:
                return start + end + 1
        self._position = start
        return 0 if start == 0 else None


class Mark(msgspec.Struct, frozen=True):
    """Bytes of `stream` from `offset` on were read at `time_us`, until its next mark."""

    stream: str
    offset: int
    time_us: int


class Segment(msgspec.Struct, frozen=True):
    """A range of one stream, in the order in which both streams were written."""

    stream: str
    start: int
    end: int
    time_us: int


class Timeline:
    """Turns marks and the present lengths of both streams into segments in the order of writing.

    The lengths must have been taken before the marks were read: then a mark may be known whose
    bytes are not yet counted, but never bytes whose mark is missing.
    """

    def __init__(self, positions: dict[str, int]) -> None:
        self.positions = dict(positions)
        self._marks: list[Mark] = []

    def add(self, marks: list[Mark]) -> None:
        self._marks += marks

    def take(self, sizes: dict[str, int]) -> list[Segment]:
        """The segments between what was taken before and `sizes`; neighbours are joined."""
        ends: list[int] = []
        following = dict(sizes)
        for mark in reversed(self._marks):
            ends.append(min(following[mark.stream], sizes[mark.stream]))
            following[mark.stream] = mark.offset
        segments: list[Segment] = []
        for mark, end in zip(self._marks, reversed(ends), strict=True):
            start = self.positions[mark.stream]
            if end <= start:
                continue
            self.positions[mark.stream] = end
            if segments and segments[-1].stream == mark.stream:
                joined = segments.pop()
                segments.append(Segment(mark.stream, joined.start, end, joined.time_us))
            else:
                segments.append(Segment(mark.stream, start, end, mark.time_us))
        self._marks = self._last_marks()
        return segments

    def _last_marks(self) -> list[Mark]:
        """The last mark of each stream that bytes were taken from, and all that come after it."""
        begun: dict[str, int] = {}
        for index, mark in enumerate(self._marks):
            if mark.offset <= self.positions[mark.stream]:
                begun[mark.stream] = index
        return [
            mark for index, mark in enumerate(self._marks) if index >= begun.get(mark.stream, 0)
        ]
