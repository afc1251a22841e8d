"""A TCP proxy before a nats-server, to hurt the connections through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

HANDSHAKE = 2
"""Answers of the server to a new connection: INFO, PONG."""


class Proxy:
    """Forwards until told otherwise.

    With `bytes_per_s` the way to the server is slow, and holds little.
    """

    def __init__(self, port: int, bytes_per_s: int = 0) -> None:
        self._port = port
        self._bytes_per_s = bytes_per_s
        self._server: asyncio.Server | None = None
        self._black: set[asyncio.StreamWriter] = set()
        self._near: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._up.set()
        self._down.set()
        self._answers = HANDSHAKE
        self._repeat_info = 0
        self._accepted = 0
        self._news = asyncio.Event()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self) -> None:
        """A black hole on the connections there are: they stay, bytes vanish; later ones work."""
        self._black |= self._open

    def stop(self, *, up: bool = True, down: bool = True) -> None:
        """Read nothing more, on present and later connections, until `go`."""
        if up:
            self._up.clear()
        if down:
            self._down.clear()

    def go(self) -> None:
        self._up.set()
        self._down.set()

    def answer(self, times: int) -> None:
        """Of new connections only so many answers of the handshake pass: 0 none, 1 INFO."""
        self._answers = times

    def repeat_info(self, connections: int) -> None:
        """On so many of the next connections a second INFO comes before the PONG."""
        self._repeat_info = connections

    def say(self, data: bytes) -> None:
        """Words for the clients, as if the server had said them."""
        for writer in self._near:
            writer.write(data)

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return self._accepted

    async def accept(self, wanted: int, deadline_s: float) -> None:
        """Until there have been so many connections."""
        async with asyncio.timeout(deadline_s):
            while self._accepted < wanted:
                self._news.clear()
                await self._news.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)  # the place may go down before this has reached the server
        self._accepted += 1
        self._news.set()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        if self._bytes_per_s:
            near = writer.get_extra_info("socket")
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._open |= {writer, far_writer}
        self._near.add(writer)
        again, self._repeat_info = self._repeat_info > 0, max(0, self._repeat_info - 1)
        for work in (
            self._forward(reader, far_writer),
            self._answer(far_reader, writer, self._answers, again),
        ):
            self._pumps.add(asyncio.get_running_loop().create_task(work))

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self._bytes_per_s and len(data) > 1000:
                    await self._after(len(data) / self._bytes_per_s)
                await self._up.wait()
                if sink not in self._black:
                    sink.write(data)
                    await sink.drain()
        sink.close()

    async def _answer(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: int, again: bool
    ) -> None:
        seen, info = 0, b""
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._down.wait()
                seen += 1
                if seen == 1:
                    info = data
                elif seen == HANDSHAKE and again:
                    data = info + data
                if sink not in self._black and (answers >= HANDSHAKE or seen <= answers):
                    sink.write(data)
                    await sink.drain()
        self._near.discard(sink)
        sink.close()

    async def _after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        handle = loop.call_later(seconds, over.set_result, None)
        try:
            await over
        finally:
            handle.cancel()

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            # asyncio's abort stumbles over a transport that was closed with bytes to write.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()
