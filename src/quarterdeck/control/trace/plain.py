"""A plain upload: bytes as they come, without offsets or a sender that could send again.

What can't be kept for a while waits here, at most `HELD_BYTES`; what comes beyond that is dropped
and counted, as a sender of ours does: whoever writes into the pipe must not be held up by us.
"""

from __future__ import annotations

import asyncio

from quarterdeck.control.trace.service import Traces
from quarterdeck.core.trace import End, Frame, Trace
from quarterdeck.errors import Unavailable
from quarterdeck.service import Clock

HELD_BYTES = 4 << 20
PIECE = 1 << 20
LAST_S = 30.0
PAUSE_S = 0.5


class Plain:
    """One upload of one stream of a trace."""

    def __init__(self, traces: Traces, trace: Trace, stream: str, clock: Clock) -> None:
        self.trace = trace
        self._traces = traces
        self._stream = stream
        self._clock = clock
        self._held = bytearray()
        self._offset = 0
        self._dropped = 0
        self._try_at = 0.0

    async def take(self, data: bytes) -> None:
        """Keep some bytes, or hold them until that works again."""
        if self._dropped or len(self._held) + len(data) > HELD_BYTES:  # one hole, where it is
            self._dropped += len(data)
        else:
            self._held += data
        if self._clock.monotonic() < self._try_at:
            return
        try:
            await self._flush()
        except Unavailable:
            self._try_at = self._clock.monotonic() + PAUSE_S

    async def end(self, code: int | None) -> Trace:
        """The upload is whole: keep the rest, and record the end. Raises Unavailable when that did
        not work for `LAST_S`."""
        until = self._clock.monotonic() + LAST_S
        while True:
            try:
                await self._flush()
                return await self._traces.end(self.trace, End(code=code))
            except Unavailable:
                if self._clock.monotonic() > until:
                    raise
                self._traces.alive(self.trace.id)
                await asyncio.sleep(PAUSE_S)

    async def broken(self) -> None:
        """The upload broke off: keep what came; nobody will say how the command ended."""
        try:
            await self._flush()
        finally:
            await self._traces.lose(self.trace.id)

    async def _flush(self) -> None:
        now_us = int(self._clock.now().timestamp() * 1e6)
        while self._held or self._dropped:
            data = bytes(self._held[:PIECE])
            frames = [Frame(self._stream, self._offset, now_us, data)] if data else []
            end = self._offset + len(data)
            if self._dropped and len(data) == len(self._held):
                frames.append(Frame(self._stream, end, now_us, b"", self._dropped))
            await self._traces.take(self.trace, frames)
            if len(data) == len(self._held):
                self._dropped = 0
            del self._held[: len(data)]
            self._offset = end
