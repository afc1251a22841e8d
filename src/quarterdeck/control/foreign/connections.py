"""Reads connections: log.io, and syslog over TCP.

A connection that says nothing we understand makes room for another when there are too many; one
that has said something stays, also when it is quiet: the harvester of log.io does not come back by
itself. Dead ones are found by the keep-alive of TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from quarterdeck.control.foreign.datagrams import peer_of
from quarterdeck.control.foreign.hub import Hub
from quarterdeck.core.foreign import Bad, Parser

READ_BYTES = 4 << 10
"""Others have their turn after so much: of the worst that can be sent it is 10 ms of work."""
MOST_CONNECTIONS = 500
STRANGER_S = 60.0
PING_S = 2.0
PING = b"ping"
FULL_WAIT_S = 0.1
KEEP_ALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 20),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6),
)


class Connections:
    """One listening socket, and all that came in by it."""

    def __init__(self, protocol: str, hub: Hub, parser: Callable[[], Parser]) -> None:
        self.protocol = protocol
        self.hub = hub
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._parser = parser
        self._open: dict[Connection, None] = {}
        self._server: asyncio.Server | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def start(self, listener: socket.socket) -> None:
        self._server = await self.loop.create_server(
            lambda: Connection(self, self._parser()), sock=listener
        )

    async def close(self) -> None:
        """Nobody comes in any more, and all are sent away."""
        if self._server is not None:
            self._server.close()
        for one in list(self._open):
            one.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def look(self) -> None:
        """Every `PING_S`: who waits for a ping gets it, who never said anything leaves."""
        now = self.loop.time()
        for one in list(self._open):
            one.ping()
            if one.stranger and now - one.since > STRANGER_S:
                one.abort()

    def enter(self, one: Connection) -> bool:
        """Whether there is room: the oldest stranger goes for it."""
        if len(self._open) >= MOST_CONNECTIONS:
            oldest = next((other for other in self._open if other.stranger), None)
            problem = f"there are more than {MOST_CONNECTIONS} connections"
            self.hub.told(self.protocol, problem)
            if oldest is None:
                return False
            oldest.abort()
            self._open.pop(oldest, None)
        self._open[one] = None
        return True

    def leave(self, one: Connection) -> None:
        self._open.pop(one, None)


class Connection(asyncio.BufferedProtocol):
    """One of them. What is read lies in a buffer that all share: it is parsed at once."""

    def __init__(self, every: Connections, parser: Parser) -> None:
        self._every = every
        self._parser = parser
        self._source = every.hub.connection(every.protocol, "unknown")
        self._transport: asyncio.Transport | None = None
        self._wants_ping = False
        self._later: asyncio.TimerHandle | None = None
        self.stranger = True
        self.since = every.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._source.peer = peer_of(transport.get_extra_info("peername"))
        opened = transport.get_extra_info("socket")
        for level, name, value in KEEP_ALIVE:
            with contextlib.suppress(OSError, AttributeError):
                opened.setsockopt(level, getattr(socket, name), value)
        if not self._every.enter(self):
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._every.buffer

    def buffer_updated(self, nbytes: int) -> None:
        messages = self._parser.feed(bytes(self._every.buffer[:nbytes]))
        if self.stranger and any(not isinstance(message, Bad) for message in messages):
            self.stranger = False
        hub = self._every.hub
        if hub.take(self._source, messages) is not None:
            self._wants_ping = True
            self.ping()
        wait_s = hub.charge(self._source, nbytes, len(messages))
        if hub.book.full:
            wait_s = max(wait_s, FULL_WAIT_S)
        if wait_s:
            self._pause(wait_s)

    def eof_received(self) -> None:
        """Nothing more comes: the connection is closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._later is not None:
            self._later.cancel()
        self._every.leave(self)
        self._every.hub.take(self._source, self._parser.finish())
        self._every.hub.gone(self._source)
        self._transport = None

    def ping(self) -> None:
        """Tell a sender of log.io 0.3 that it is heard, unless it does not read what we say."""
        transport = self._transport
        if self._wants_ping and transport is not None and not transport.get_write_buffer_size():
            transport.write(PING)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pause(self, wait_s: float) -> None:
        if self._transport is not None and self._later is None:
            self._transport.pause_reading()
            self._later = self._every.loop.call_later(wait_s, self._resume)

    def _resume(self) -> None:
        self._later = None
        if self._every.hub.book.full:
            self._later = self._every.loop.call_later(FULL_WAIT_S, self._resume)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
