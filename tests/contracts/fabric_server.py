"""A real nats-server for tests: on a free port in a temporary directory, and a proxy to hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats import NatsFabric, Options
from tests.contracts.fabric_place import DEADLINE_S, QUICK, Place, opened


class Harbour(Place):
    """One embedded fabric with its authority, and every link made to it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.authority = Authority.open(root / "authority")
        self.server = EmbeddedFabric(root / "fabric", self.authority)
        self.ttl_s = 3600
        self._process: Any = None

    async def up(self) -> None:
        self._process = self.server.spawn()
        await self.server.wait_ready(DEADLINE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def down(self) -> None:
        await super().down()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
        self.server.close()

    def identity(self, name: str) -> Identity:
        return Identity.open(self.root / "keys" / name)

    def make(
        self,
        role: str,
        name: str,
        *,
        url: str = "",
        options: Options = QUICK,
        jwt_source: Callable[[], Coroutine[Any, Any, str]] | None = None,
    ) -> NatsFabric:
        """A link, not started; it is stopped with the harbour."""
        identity = self.identity(name)
        mint = getattr(self.authority, f"mint_{role}")

        async def fresh() -> str:
            token: str = mint(name, identity.public_key, now=int(time.time()), ttl_s=self.ttl_s)
            return token

        link = NatsFabric(
            [url or self.server.url],
            name,
            jwt_source=jwt_source or fresh,
            signer=identity.sign,
            spawn=self.spawn,
            on_error=self.complain,
            options=options,
        )
        self._links.append(link)
        return link


@contextlib.asynccontextmanager
async def harbour(root: Path) -> AsyncIterator[Harbour]:
    """A running harbour; nothing of it may be left afterwards."""
    place = Harbour(root)
    async with opened(place):
        yield place


class Proxy:
    """A TCP proxy that can turn into a black hole: connections stay, bytes vanish.

    With `bytes_per_s` the way to the server is slow, and holds little.
    """

    def __init__(self, port: int, bytes_per_s: int = 0) -> None:
        self._port = port
        self._bytes_per_s = bytes_per_s
        self._server: asyncio.Server | None = None
        self._black: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self) -> None:
        """Forward nothing more on the connections there are; later ones work."""
        self._black |= self._open

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        if self._bytes_per_s:
            near = writer.get_extra_info("socket")
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._open |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.get_running_loop().create_task(self._pump(source, sink))
            self._pumps.add(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self._bytes_per_s and len(data) > 1000:
                    await self._after(len(data) / self._bytes_per_s)
                if sink not in self._black:
                    sink.write(data)
                    await sink.drain()
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
            writer.transport.abort()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()
