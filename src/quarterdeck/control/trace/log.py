"""Reads what traces have said, wherever it lies before it is archived.

A kept trace lies in pieces, which are there from its first byte. Of an ephemeral one the window has
the latest: its bytes begin somewhere, and what lies before is gone.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator

from quarterdeck.control.trace.window import Windows
from quarterdeck.core.model import STREAMS, Attempt
from quarterdeck.core.stream import Gap, Mark, Segment, Taken, Timeline, splice
from quarterdeck.core.trace import NODE, Trace
from quarterdeck.core.traced import attempt_of_trace
from quarterdeck.errors import Broken, Unavailable
from quarterdeck.store import log as log_store
from quarterdeck.store import piece as piece_store
from quarterdeck.store import trace as trace_store
from quarterdeck.store.archive import Archive
from quarterdeck.store.base import Database, Tx
from quarterdeck.store.piece import Piece
from quarterdeck.wire.codec import Chunk
from quarterdeck.wire.marks import MOST_MARKS, decode_marks

PIECES = 16
PIECES_LISTED = 2000
SHOWN = 256 << 10


class TraceLog:
    """One reader for both kinds."""

    def __init__(self, *, database: Database, archive: Archive, windows: Windows) -> None:
        self._database = database
        self._archive = archive
        self._windows = windows

    async def of(self, attempt: Attempt) -> Trace | None:
        """The trace of an attempt when its output is not in the archive; None of any other.

        One that was archived after the attempt was read, which knows nothing of it, is found too.
        """
        if attempt.node != NODE:
            return None
        trace = await self._database.read(lambda tx: trace_store.get(tx, attempt.run))
        unknown = trace.kept and not attempt.sealed
        return trace if unknown or not trace.sealed else None

    async def extent(self, trace: Trace, stream: str) -> tuple[int, int]:
        """The first byte of a stream that can be read with all that follow it, and their end."""
        if trace.kept:
            return 0, trace.bytes.of(stream)
        begin = end = 0
        async for said in self._windows.said(trace):
            if not isinstance(said, Chunk) or said.stream != stream:
                continue
            if end == 0 or said.offset > end:
                begin = said.offset
            end = max(end, said.offset + len(said.data))
        return (begin, end) if end else (trace.bytes.of(stream),) * 2

    async def pieces(self, trace: Trace, stream: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a range. Raises Unavailable when some of them are gone."""
        found = (
            self._kept(trace, stream, start, end)
            if trace.kept
            else self._recent(trace, stream, start, end)
        )
        async for data in found:
            yield data
            start += len(data)
        if start < end:
            raise Unavailable(
                "trace_gone",
                f"The {stream} of trace {trace.id} from byte {start} is not kept any more: look at "
                "what came later.",
            )

    async def in_order(self, trace: Trace, positions: dict[str, int]) -> AsyncIterator[Chunk]:
        """Both streams from `positions` up to now, in the order they were written; what is gone is
        left out."""
        if not trace.kept:
            async for chunk in self._told(trace, positions):
                yield chunk
            return
        timeline = Timeline(positions)
        timeline.add(await self.marks(trace))
        sizes = {stream: trace.bytes.of(stream) for stream in STREAMS}
        segments = timeline.take(sizes)
        reached = timeline.positions
        segments += [Segment(s, reached[s], sizes[s], 0) for s in STREAMS if reached[s] < sizes[s]]
        for one in segments:
            start = one.start
            async for data in self.pieces(trace, one.stream, one.start, one.end):
                for at in range(0, len(data), SHOWN):
                    part = data[at : at + SHOWN]
                    yield Chunk(one.stream, start, one.time_us, part)
                    start += len(part)

    async def marks(self, trace: Trace) -> list[Mark]:
        """When each part of a kept trace was written, both streams in one order."""
        known: dict[str, list[Mark]] = {}
        for stream in STREAMS:
            marks = known.setdefault(stream, [])
            offset = 0
            while len(marks) < MOST_MARKS:
                pieces = await self._pieces(trace.id, stream, offset, PIECES_LISTED, whole=False)
                if not pieces:
                    break
                for piece in pieces:
                    marks += decode_marks(piece.times)[0]
                offset = pieces[-1].start + pieces[-1].length
        return list(heapq.merge(*known.values(), key=lambda mark: mark.time_us))[:MOST_MARKS]

    async def _told(self, trace: Trace, positions: dict[str, int]) -> AsyncIterator[Chunk]:
        reached = dict(positions)
        async for said in self._windows.said(trace):
            if not isinstance(said, Chunk):
                continue
            met = splice(reached[said.stream], said.offset, said.data)
            if isinstance(met, Gap):
                met = Taken(said.offset, said.data)
            if met is not None:
                reached[said.stream] = met.offset + len(met.data)
                yield Chunk(said.stream, met.offset, said.time_us, met.data)

    async def _recent(
        self, trace: Trace, stream: str, start: int, end: int
    ) -> AsyncIterator[bytes]:
        async for said in self._windows.said(trace):
            if not isinstance(said, Chunk) or said.stream != stream:
                continue
            met = splice(start, said.offset, said.data)
            if isinstance(met, Taken):
                data = met.data[: end - start]
                yield data
                start += len(data)
                if start >= end:
                    return

    async def _kept(self, trace: Trace, stream: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            pieces = await self._pieces(trace.id, stream, start, PIECES)
            try:
                data = b"" if not pieces else await self._part(pieces[0], start, end)
            except Broken:
                data = await self._archived(trace, stream, start, end)
                if not data:
                    raise
            if not pieces:
                data = await self._archived(trace, stream, start, end)
            if not data:
                return
            yield data
            start += len(data)
            for piece in pieces[1:]:
                if piece.object is not None or start >= end:
                    break
                part = piece.inline[start - piece.start : end - piece.start]
                yield part
                start += len(part)

    async def _part(self, piece: Piece, start: int, end: int) -> bytes:
        at = start - piece.start
        length = min(end - start, piece.length - at)
        if piece.object is None:
            return piece.inline[at : at + length]
        return await self._archive.part(piece.object, at, length)

    async def _archived(self, trace: Trace, stream: str, start: int, end: int) -> bytes:
        """It was archived while it was read."""
        attempt = attempt_of_trace(trace.id)
        found = await self._database.read(lambda tx: log_store.load(tx, [attempt]))
        if attempt not in found:
            return b""
        return await self._archive.read(found[attempt], stream, start, min(end - start, 1 << 20))

    async def _pieces(
        self, trace_id: str, stream: str, offset: int, limit: int, *, whole: bool = True
    ) -> list[Piece]:
        def read(tx: Tx) -> list[Piece]:
            return piece_store.page(tx, trace_id, stream, offset, limit, whole=whole)

        return await self._database.read(read)
