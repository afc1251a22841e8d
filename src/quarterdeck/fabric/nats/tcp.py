"""nats-py's TCP transport, without the copies that large messages do not need.

asyncio's streams copy what comes into a buffer and out of it again, and join what goes into one
piece. For 200 MB of output that is a good part of the processor time of an agent and of a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

_LARGE = 32 << 10
_SMALL = 4 << 10
_REST_S = 0.004
_LOOK_S = 0.1
_MANY = 50
"""Small reads within `_LOOK_S`: then the socket rests for `_REST_S` after each."""


class Pieces(asyncio.StreamReader):
    """Gives a reader that waits what the socket gave, as it is; else it is a plain stream.

    Thousands of nodes beat one at a time, and to wake up for each costs more than to read it. So
    while many small pieces come the socket is left alone for a moment after each.
    """

    _waiter: asyncio.Future[None] | None
    _buffer: bytearray
    _paused: bool
    _transport: asyncio.ReadTransport | None

    def __init__(self, limit: int) -> None:
        self._clock = asyncio.get_running_loop()
        super().__init__(limit=limit, loop=self._clock)
        self._wanted = False
        self._given = b""
        self._small = 0
        self._looked_at = 0.0
        self._rests = False

    def feed_data(self, data: Any) -> None:
        """See `asyncio.StreamReader`."""
        self._take(data)
        if len(data) < _SMALL:
            self._rest()

    def _rest(self) -> None:
        self._small += 1
        now = self._clock.time()
        if now - self._looked_at >= _LOOK_S:
            # while it rests it can't count as many as come, so what still comes one by one is many
            most = _MANY if not self._rests else _MANY / 4
            self._rests = self._small >= most and now - self._looked_at < 2 * _LOOK_S
            self._small, self._looked_at = 0, now
        if self._rests and self._transport is not None:
            self._transport.pause_reading()
            self._clock.call_later(_REST_S, self._wake)

    def _wake(self) -> None:
        # the stream pauses it too, when nobody takes what came
        if not self._paused and self._transport is not None:
            self._transport.resume_reading()

    def _take(self, data: Any) -> None:
        if not (self._wanted and data) or self._given or self._buffer:
            super().feed_data(data)
            return
        self._given = data
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def read(self, n: int = -1) -> bytes:
        """See `asyncio.StreamReader`; a piece of the socket may be longer than `n`."""
        if not (self._given or self._buffer or self.at_eof()) and self.exception() is None:
            self._wanted = True
            try:
                await self._wait_for_data("read")  # type: ignore[attr-defined]
            finally:
                self._wanted = False
        if self._given:
            given, self._given = self._given, b""
            return given
        return await super().read(n)

    def at_eof(self) -> bool:
        """See `asyncio.StreamReader`."""
        return not self._given and super().at_eof()


class DirectTransport(TcpTransport):
    """Large parts of what is sent go to the socket by themselves."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __bool__(self) -> bool:
        return True  # nats-py would make one of its own

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """`connect_timeout` is the caller's: it has one for all of it."""
        loop = asyncio.get_running_loop()
        reader = Pieces(buffer_size)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        host, port = uri.hostname or "", uri.port or 0
        transport, _ = await loop.create_connection(lambda: protocol, host, port)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    def writelines(self, payload: Iterable[bytes | bytearray]) -> None:
        writer: Any = self._io_writer
        small: list[bytes | bytearray] = []
        for part in payload:
            if len(part) < _LARGE:
                small.append(part)
                continue
            writer.write(b"".join(small))
            small.clear()
            writer.write(memoryview(part))
        writer.write(b"".join(small))
