"""Sends the output of an attempt from its files into the fabric, live and in the order of writing.

The files are the truth, the fabric only a cache: a chunk the cache refuses is not sent again (the
server reads it from the files when it needs it), and what is sent twice is told by its offset. The
window bounds how much lies unanswered, so a slow fabric slows this sender and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from quarterdeck.agent.host import Spool
from quarterdeck.core.ids import split_attempt
from quarterdeck.core.model import STREAMS
from quarterdeck.core.stream import Segment, Timeline
from quarterdeck.fabric.base import Fabric, Refused, Stored
from quarterdeck.service import Clock
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import CHUNK_HEADER, put_chunk_header
from quarterdeck.wire.marks import decode_marks

CHUNK_BYTES = 256 << 10
WINDOW_BYTES = 8 << 20
ROOM = CHUNK_HEADER.size
SAVE_S = 1.0
MARKS_BYTES = 256 << 10


class Window:
    """Bytes that may be under way at once, shared by all attempts of the agent."""

    def __init__(self, limit: int = WINDOW_BYTES) -> None:
        self._free = limit
        self._room = asyncio.Event()
        self._room.set()

    async def take(self, size: int) -> None:
        while self._free <= 0:
            self._room.clear()
            await self._room.wait()
        self._free -= size

    def given_back(self, size: int, _answer: object) -> None:
        """What a chunk took, free again once it was answered."""
        self._free += size
        if self._free > 0:
            self._room.set()


class Sender:
    """The output of one attempt on its way. `advance` sends what is new, `finish` waits for all."""

    def __init__(
        self,
        *,
        attempt: str,
        node: str,
        spool: Spool,
        fabric: Fabric,
        window: Window,
        clock: Clock,
    ) -> None:
        self._spool = spool
        self._fabric = fabric
        self._window = window
        self._clock = clock
        self._subject = subjects.output(node, split_attempt(attempt)[0], attempt)
        self._acked = dict.fromkeys(STREAMS, 0) | spool.acked()
        self._timeline = Timeline(self._acked)
        self._marks_read = 0
        self._sent: deque[tuple[str, int, asyncio.Future[Stored | Refused]]] = deque()
        self._saved_at = 0.0
        self.refused = False

    async def advance(self) -> None:
        """Send what the files hold beyond what was sent."""
        sizes = {stream: await self._spool.size(stream) for stream in STREAMS}
        await self._read_marks()
        for segment in self._timeline.take(sizes):
            await self._send(segment)
        self._note_acks()

    async def finish(self) -> bool:
        """Send the rest of an ended attempt, await the answers; whether the cache has it all."""
        await self.advance()
        while self._sent:
            await asyncio.wait([self._sent[0][2]])
            self._note_acks()
        if not self.refused:
            self._spool.save_acked(self._acked)
        return not self.refused

    def close(self) -> None:
        for _, _, future in self._sent:
            future.cancel()
        self._spool.close()

    async def _send(self, segment: Segment) -> None:
        start = segment.start
        while start < segment.end:
            length = min(CHUNK_BYTES, segment.end - start)
            chunk = await self._spool.read_behind(ROOM, segment.stream, start, length)
            count = len(chunk) - ROOM
            if not count:
                return
            await self._window.take(count)
            put_chunk_header(chunk, segment.stream, start, segment.time_us)
            future = self._fabric.store(self._subject, chunk)
            future.add_done_callback(partial(self._window.given_back, count))
            start += count
            self._sent.append((segment.stream, start, future))
            self._note_acks()

    def _note_acks(self) -> None:
        moved = False
        while self._sent and self._sent[0][2].done():
            stream, end, future = self._sent.popleft()
            if future.cancelled() or future.exception() or isinstance(future.result(), Refused):
                self.refused = True
            if not self.refused:  # after a restart everything from the first refusal on goes again
                self._acked[stream] = end
                moved = True
        now = self._clock.monotonic()
        if moved and not self.refused and now - self._saved_at > SAVE_S:
            self._spool.save_acked(self._acked)
            self._saved_at = now

    async def _read_marks(self) -> None:
        while data := await self._spool.read("times", self._marks_read, MARKS_BYTES):
            marks, used = decode_marks(data)
            self._timeline.add(marks)
            self._marks_read += used
            if not used:
                return
