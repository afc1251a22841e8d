"""A server that hears foreign senders, and a way to see what became of what they said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from quarterdeck.control.foreign.counts import View
from quarterdeck.control.main import Server
from quarterdeck.core.trace import Trace
from quarterdeck.errors import Unavailable
from quarterdeck.store.trace import TraceFilter
from quarterdeck.telemetry import Event
from quarterdeck.telemetry.trace import TraceBegan, TraceEnded, TraceTaken
from quarterdeck.wire.codec import Chunk
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import Ears, serving

T = TypeVar("T")

EVERY = "rtail=127.0.0.1:0,logio=127.0.0.1:0,logio4=127.0.0.1:0,syslog=127.0.0.1:0"


class Listener:
    """One server, and senders to it."""

    def __init__(self, server: Server, ears: Ears) -> None:
        self.server = server
        self.ears = ears
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._open: list[asyncio.StreamWriter] = []

    def view(self, protocol: str) -> View:
        return next(view for view in self.server.foreign.views() if view.protocol == protocol)

    def place(self, protocol: str) -> tuple[str, int]:
        host, _, port = self.view(protocol).listen.rpartition(":")
        return host, int(port)

    def datagram(self, protocol: str, data: bytes) -> None:
        self._udp.sendto(data, self.place(protocol))

    async def connect(self, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.place(protocol))
        self._open.append(writer)
        return reader, writer

    async def close(self) -> None:
        self._udp.close()
        for writer in self._open:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def trace(self, name: str, sender: str = "") -> Trace:
        """The newest trace of this name (and sender), once there is one."""
        return await self.once(TraceBegan, lambda: self._find(name, sender))

    async def traces(self, name: str) -> list[Trace]:
        return await self.server.traces.page(TraceFilter(namespace="default", name=name))

    async def said(self, trace: Trace) -> dict[str, bytes]:
        """What the window holds of a trace, by stream."""
        found = {"stdout": b"", "stderr": b""}
        async for chunk in self.server.tracing.windows.said(trace):
            if isinstance(chunk, Chunk):
                found[chunk.stream] += chunk.data
        return found

    async def says(
        self, name: str, wanted: bytes, *, sender: str = "", stream: str = "stdout"
    ) -> None:
        """Wait until a trace has said exactly this."""
        trace = await self.trace(name, sender)

        async def look() -> bool | None:
            with contextlib.suppress(Unavailable):  # the fabric is being started again
                return (await self.said(trace))[stream] == wanted or None
            return None

        await self.once(TraceTaken, look)

    async def ended(self, name: str) -> Trace:
        """The newest trace of this name once it is over."""

        async def look() -> Trace | None:
            found = await self._find(name, "")
            return found if found is not None and found.end is not None else None

        return await self.once(TraceEnded, look)

    async def once(self, kind: type[Event], look: Callable[[], Awaitable[T | None]]) -> T:
        """What `look` finds, looked for again after each event of a kind."""
        number = 0
        while (found := await look()) is None:
            number += 1
            await self.ears.until(kind, number)
        return found

    async def _find(self, name: str, sender: str) -> Trace | None:
        found = await self.traces(name)
        return next((one for one in found if sender in ("", one.sender)), None)


@contextlib.asynccontextmanager
async def hearing(place: Harbour, ingest: str = EVERY) -> AsyncIterator[Listener]:
    """A server with these listeners."""
    async with serving(place, ingest=ingest) as (server, ears):
        found = Listener(server, ears)
        try:
            yield found
        finally:
            await found.close()
