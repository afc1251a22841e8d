"""A small HTTP proxy for tests: CONNECT, and plain requests by their whole address."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

REFUSED = b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ConnectProxy:
    """`login` is `user:password` that it wants, or empty. `tunnels` and `asked` say what for;
    `names` are addresses of hosts that nobody else knows; `refused` counts those without it."""

    def __init__(
        self,
        login: str = "",
        *,
        host: str = "127.0.0.1",
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._login = login
        self._host = host
        self._names = names or {}
        self.refused = 0
        self.tunnels: list[str] = []
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> ConnectProxy:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        return self

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        login = f"{self._login}@" if self._login else ""
        return f"http://{login}{self._host}:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self._login.encode())
            if self._login and wanted not in head:
                self.refused += 1
                writer.write(REFUSED)
                writer.close()
                return
            target = head.split(b" ", 2)[1].decode()
            tunnel = head.startswith(b"CONNECT ")
            if tunnel:
                self.tunnels.append(target)
                host, _, port = target.rpartition(":")
            else:
                host, port = urlsplit(target).hostname or "", str(urlsplit(target).port or 80)
            host = host.strip("[]")
            far_reader, far_writer = await asyncio.open_connection(
                self._names.get(host, host), int(port)
            )
            self._open.add(far_writer)
            if tunnel:
                writer.write(b"HTTP/1.1 200 Here you are\r\n\r\n")
            self._pump(far_reader, writer)
            if tunnel:
                self._pump(reader, far_writer)
            else:
                await self._hand_on(head, reader, far_writer)

    async def _hand_on(
        self, head: bytes, reader: asyncio.StreamReader, far: asyncio.StreamWriter
    ) -> None:
        """One request after another; the server is told the path only, and not who we are."""
        while True:
            first, *lines = head.rstrip().split(b"\r\n")
            method, target, version = first.split(b" ")
            self.asked.append(target.decode())
            parts = urlsplit(target)
            query = b"?" + parts.query if parts.query else b""
            kept = [line for line in lines if not line.lower().startswith(b"proxy-")]
            far.write(b"\r\n".join([method + b" " + parts.path + query + b" " + version, *kept]))
            far.write(b"\r\n\r\n")
            sizes = [int(line[15:]) for line in kept if line.lower().startswith(b"content-length:")]
            far.write(await reader.readexactly(sum(sizes)))
            head = await reader.readuntil(b"\r\n\r\n")

    def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        self._work.add(asyncio.get_running_loop().create_task(_pump(source, sink)))

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._server.wait_closed()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@contextlib.contextmanager
def in_thread(proxy: ConnectProxy) -> Iterator[None]:
    """The proxy at work beside a test without a loop."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with proxy:
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()
