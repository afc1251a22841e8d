"""A small HTTP proxy for tests: CONNECT, and plain requests by their whole address."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from urllib.parse import urlsplit


class ConnectProxy:
    """`login` is `user:password` that it wants, or empty. `tunnels` and `asked` say what for."""

    def __init__(self, login: str = "", *, host: str = "127.0.0.1") -> None:
        self._login = login
        self._host = host
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
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.split(b" ", 2)
        wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self._login.encode())
        if self._login and wanted not in head:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        target = words[1].decode()
        if words[0] == b"CONNECT":
            self.tunnels.append(target)
            host, _, port = target.rpartition(":")
        else:
            self.asked.append(target)
            host, port = urlsplit(target).hostname or "", str(urlsplit(target).port or 80)
        far_reader, far_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        self._open.add(far_writer)
        if words[0] == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Here you are\r\n\r\n")
        else:
            far_writer.write(head.replace(target.encode(), urlsplit(target).path.encode(), 1))
        for source, sink in ((reader, far_writer), (far_reader, writer)):
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
