"""A real nats-server for tests: on a free port in a temporary directory, and a proxy to hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from quarterdeck.fabric.base import Delivery, Fabric, Kept, Limits
from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats import NatsFabric, Options

DEADLINE_S = 15.0
QUICK = Options(
    connect_timeout_s=5.0,
    ping_interval_s=0.2,
    pings_outstanding=2,
    backoff_first_s=0.02,
    backoff_cap_s=0.1,
    denied_cap_s=0.1,
    ack_timeout_s=0.5,
    answer_timeout_s=3.0,
    idle_heartbeat_s=0.2,
)


class Harbour:
    """One embedded fabric with its authority, and every link made to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = Authority.open(root / "authority")
        self.server = EmbeddedFabric(root / "fabric", self.authority)
        self.errors: list[str] = []
        self.ttl_s = 3600
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: list[NatsFabric] = []
        self._process: Any = None

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def up(self) -> None:
        self._process = self.server.spawn()
        await self.server.wait_ready(DEADLINE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def down(self) -> None:
        for link in self._links:
            await link.stop()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
        self.server.close()

    def complain(self, text: str) -> None:
        self.errors.append(text)
        self._changed.set()

    async def error(self, part: str) -> str:
        """The first complaint that contains these words, now or within the deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for text in self.errors:
                    if part in text:
                        return text
                self._changed.clear()
                await self._changed.wait()

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

    async def join(self, role: str, name: str, **more: Any) -> NatsFabric:
        link = self.make(role, name, **more)
        await link.start()
        return link

    async def fleet(self, **limits: Any) -> tuple[NatsFabric, NatsFabric]:
        """A server with the streams made, and node `n1`."""
        server = await self.join("server", "s1")
        await server.ensure_streams(Limits(**limits))
        return server, await self.join("node", "n1")


@contextlib.asynccontextmanager
async def harbour(root: Path) -> AsyncIterator[Harbour]:
    """A running harbour; nothing of it may be left afterwards."""
    place = Harbour(root)
    await place.up()
    try:
        yield place
    finally:
        await place.down()
    # anyio runs each part of a test in a task of its own runner.
    left = [task for task in asyncio.all_tasks() if "TestRunner" not in repr(task.get_coro())]
    assert not left, f"tasks left over: {left}"


async def replayed(fabric: Fabric, subject: str, after: int = 0) -> list[Kept]:
    return [kept async for kept in fabric.replay("OUT", subject, after=after)]


async def take(deliveries: AsyncIterator[list[Delivery]], wanted: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < wanted:
            found += await anext(deliveries)
    return found


class Inbox:
    """A handler that keeps what it gets and can be waited for."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._arrived = asyncio.Event()

    def __call__(self, message: Any) -> None:
        self.messages.append(message)
        self._arrived.set()

    async def count(self, wanted: int) -> list[Any]:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.messages) < wanted:
                self._arrived.clear()
                await self._arrived.wait()
        return self.messages


class Connections:
    """Counts the `on_connect` calls of a link."""

    def __init__(self, link: NatsFabric) -> None:
        self.count = 0
        self._changed = asyncio.Event()
        link.on_connect(self._more)

    def _more(self) -> None:
        self.count += 1
        self._changed.set()

    async def reach(self, wanted: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.count < wanted:
                self._changed.clear()
                await self._changed.wait()


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
