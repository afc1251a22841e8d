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


class Pieces(asyncio.StreamReader):
    """Gives a reader that waits what the socket gave, as it is; else it is a plain stream."""

    _waiter: asyncio.Future[None] | None
    _buffer: bytearray

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit, loop=asyncio.get_running_loop())
        self._wanted = False
        self._given = b""

    def feed_data(self, data: Any) -> None:
        """See `asyncio.StreamReader`."""
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
