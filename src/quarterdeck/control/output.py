"""One reader over the output of an attempt, wherever it lies now.

Sealed: the archive, and only the archive. Before that the node's own files are the truth and are
read through its agent; while the node is away, what the cache OUT holds of it serves.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from quarterdeck.control.orders import Orderer
from quarterdeck.control.trace.log import TraceLog
from quarterdeck.core.model import STREAMS, Attempt
from quarterdeck.core.states import Phase
from quarterdeck.core.stream import (
    Backwards,
    Mark,
    Segment,
    Taken,
    Timeline,
    most_output,
    splice,
)
from quarterdeck.errors import Broken, Invalid, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.store import log as log_store
from quarterdeck.store import run as run_store
from quarterdeck.store.archive import MARKS, Archive, SealedLog
from quarterdeck.store.base import Database
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, decode_chunk
from quarterdeck.wire.marks import MOST_BYTES, decode_marks

PIECE = 1 << 20
SHOWN_PIECE = 256 << 10
LINE_BLOCK = 256 << 10
RUNS_KNOWN = 1000


def marks_left(read: int) -> int:
    """How many bytes of marks to ask for after `read`; 0 when there are more than are kept."""
    return min(PIECE, MOST_BYTES - read)


class Output:
    """Reads output of attempts for people and for sealing."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        archive: Archive,
        orderer: Orderer,
        traces: TraceLog,
    ) -> None:
        self._traces = traces
        self._database = database
        self._fabric = fabric
        self._archive = archive
        self._orderer = orderer
        self._most: dict[str, int] = {}

    async def most(self, run: str) -> int:
        """Bytes that an attempt of a run can have written: what its node offers beyond that is not
        read, so a stream that is not archived yet has an end, too."""
        if run not in self._most:
            orders = await self._database.read(lambda tx: run_store.orders_of(tx, [run]))
            if len(self._most) >= RUNS_KNOWN:
                del self._most[next(iter(self._most))]
            self._most[run] = most_output(orders[run].max_output)
        return self._most[run]

    async def size(self, attempt: Attempt, stream: str) -> int:
        """Bytes of a stream that can be read now."""
        size = await self._size(attempt, stream)
        return size if attempt.sealed else min(size, await self.most(attempt.run))

    async def begin(self, attempt: Attempt, stream: str) -> int:
        """The first byte of a stream that can be read: of an ephemeral trace the past is gone."""
        trace = await self._traces.of(attempt)
        return 0 if trace is None else (await self._traces.extent(trace, stream))[0]

    async def _size(self, attempt: Attempt, stream: str) -> int:
        if (trace := await self._traces.of(attempt)) is not None:
            return (await self._traces.extent(trace, stream))[1]
        snapshot = attempt.snapshot
        ended = snapshot is not None and snapshot.phase is Phase.ENDED
        if attempt.sealed and (attempt.log_gone or not ended):
            log = await self._sealed(attempt)
            return log.layout[stream].bytes if stream in log.layout else 0
        if ended:
            return _reported(attempt, stream)
        try:
            answer = await self._orderer.read_output(attempt.node, attempt.id, stream, 0, 0)
        except Unavailable:
            answer = None
        if answer is not None:
            return answer.size
        return max([0, *[c.offset + len(c.data) async for c in self.cached(attempt, stream)]])

    async def read(self, attempt: Attempt, stream: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the present end."""
        found = bytearray()
        if (trace := await self._traces.of(attempt)) is not None:
            _, size = await self._traces.extent(trace, stream)
            async for piece in self._traces.pieces(
                trace, stream, offset, min(size, offset + length)
            ):
                found += piece
            return bytes(found)
        data = await self._direct(attempt, stream, offset, length)
        if data is not None:
            return data
        async for piece in self._from_cache(attempt, stream, offset, offset + length):
            found += piece
        return bytes(found)

    async def pieces(
        self, attempt: Attempt, stream: str, start: int, end: int
    ) -> AsyncGenerator[bytes]:
        """The bytes from `start` to `end` in pieces. Raises Unavailable when some are missing."""
        if (trace := await self._traces.of(attempt)) is not None:
            async for piece in self._traces.pieces(trace, stream, start, end):
                yield piece
            return
        while start < end:
            data = await self._direct(attempt, stream, start, min(PIECE, end - start))
            if data is None:
                async for piece in self._from_cache(attempt, stream, start, end):
                    yield piece
                    start += len(piece)
            elif data:
                yield data
                start += len(data)
            if start < end and not data:
                raise Unavailable(
                    "output_away",
                    f"The {stream} of {attempt.id} from byte {start} lies on its node, "
                    "which does not answer now: ask again when it is back.",
                )

    async def last_lines(self, attempt: Attempt, stream: str, lines: int) -> int:
        """The offset at which the last `lines` lines of a stream begin."""
        start, first = await self.size(attempt, stream), await self.begin(attempt, stream)
        backwards = Backwards(start, lines)
        while True:
            step = min(LINE_BLOCK, start - first)
            pieces = self.pieces(attempt, stream, start - step, start)
            found = backwards.take(b"".join([piece async for piece in pieces]))
            if found is not None or (first and not step):
                return max(first, found or 0)
            start -= step

    async def in_order(self, attempt: Attempt, positions: dict[str, int]) -> AsyncIterator[Chunk]:
        """Both streams of an ended attempt, or of a trace so far, from `positions`, in the order
        they were written."""
        if (trace := await self._traces.of(attempt)) is not None:
            async for chunk in self._traces.in_order(trace, positions):
                yield chunk
            return
        sizes = {stream: await self.size(attempt, stream) for stream in STREAMS}
        if all(positions[stream] >= sizes[stream] for stream in STREAMS):
            return
        timeline = Timeline(positions)
        timeline.add(await self._marks(attempt))
        segments = timeline.take(sizes)
        rest = [
            Segment(stream, timeline.positions[stream], sizes[stream], 0)
            for stream in STREAMS
            if timeline.positions[stream] < sizes[stream]
        ]
        for segment in segments + rest:
            async for chunk in self.shown(attempt, segment):
                yield chunk

    async def shown(self, attempt: Attempt, segment: Segment) -> AsyncIterator[Chunk]:
        """A segment in chunks of a size fit for screens. Raises Unavailable."""
        start = segment.start
        async for data in self.pieces(attempt, segment.stream, segment.start, segment.end):
            for at in range(0, len(data), SHOWN_PIECE):
                part = data[at : at + SHOWN_PIECE]
                yield Chunk(segment.stream, start, segment.time_us, part)
                start += len(part)

    async def cached(self, attempt: Attempt, stream: str | None = None) -> AsyncIterator[Chunk]:
        """What OUT holds of an attempt, in the order it came; chunks may repeat and overlap."""
        subject = subjects.output(attempt.node, attempt.run, attempt.id)
        async for kept in self._fabric.replay(subjects.OUT, subject):
            try:
                chunk = decode_chunk(kept.data)
            except Invalid:
                continue
            if stream is None or chunk.stream == stream:
                yield chunk

    async def _direct(
        self, attempt: Attempt, stream: str, offset: int, length: int
    ) -> bytes | None:
        """Bytes from the archive or from the node's files; None when neither has the attempt."""
        if attempt.sealed:
            return await self._archive.read(await self._sealed(attempt), stream, offset, length)
        try:
            answer = await self._orderer.read_output(
                attempt.node, attempt.id, stream, offset, min(length, PIECE)
            )
        except Unavailable:
            answer = None
        if answer is not None:
            if answer.final and length and answer.size <= offset < _reported(attempt, stream):
                raise Broken(
                    "output_lost",
                    f"The {stream} of {attempt.id} on its node ends at byte {answer.size}, before "
                    "what was reported: somebody changed the file.",
                )
            return answer.data[: min(length, PIECE)]  # a node may send more than was asked
        log = await self._sealed_meanwhile(attempt)
        if log is None:
            return None
        return await self._archive.read(log, stream, offset, length)

    async def _from_cache(
        self, attempt: Attempt, stream: str, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """What OUT holds of a range, without gaps from its start on, in one pass."""
        async for chunk in self.cached(attempt, stream):
            taken = splice(start, chunk.offset, chunk.data)
            if isinstance(taken, Taken):
                data = taken.data[: end - start]
                yield data
                start += len(data)
                if start >= end:
                    return

    async def _marks(self, attempt: Attempt) -> list[Mark]:
        data = bytearray()
        try:
            while piece := await self.read(attempt, MARKS, len(data), marks_left(len(data))):
                data += piece
        except Broken:
            return decode_marks(bytes(data))[0]
        except Unavailable:
            return [Mark(c.stream, c.offset, c.time_us) async for c in self.cached(attempt)]
        return decode_marks(bytes(data))[0]

    async def _sealed(self, attempt: Attempt) -> SealedLog:
        return await self._sealed_meanwhile(attempt) or SealedLog(attempt=attempt.id)

    async def _sealed_meanwhile(self, attempt: Attempt) -> SealedLog | None:
        found = await self._database.read(lambda tx: log_store.load(tx, [attempt.id]))
        return found.get(attempt.id)


def _reported(attempt: Attempt, stream: str) -> int:
    """Bytes of a stream that the node has told of an ended attempt."""
    snapshot = attempt.snapshot
    if snapshot is None or snapshot.phase is not Phase.ENDED or stream not in STREAMS:
        return 0
    return (snapshot.stdout if stream == "stdout" else snapshot.stderr).bytes
