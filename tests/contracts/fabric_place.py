"""What the contract tests of the fabric need of any implementation, and the one in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from quarterdeck.fabric.base import Delivery, Fabric, Kept, Limits
from quarterdeck.fabric.memory import MemoryCore, MemoryFabric
from quarterdeck.fabric.nats.fabric import LinkedFabric
from quarterdeck.fabric.nats.link import Options

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


class Place:
    """One fabric and every link made to it."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: list[LinkedFabric] = []

    async def up(self) -> None:
        """Start what carries the messages; again after `kill`."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it as kill -9 does."""
        raise NotImplementedError

    async def down(self) -> None:
        for link in self._links:
            await link.stop()

    def make(self, role: str, name: str, *, options: Options = QUICK) -> LinkedFabric:
        """A link, not started; it is stopped with the place."""
        raise NotImplementedError

    async def join(self, role: str, name: str, **more: Any) -> LinkedFabric:
        link = self.make(role, name, **more)
        await link.start()
        return link

    async def fleet(self, **limits: Any) -> tuple[LinkedFabric, LinkedFabric]:
        """A server with the streams made, and node `n1`."""
        server = await self.join("server", "s1")
        await server.ensure_streams(Limits(**limits))
        return server, await self.join("node", "n1")

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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


class MemoryPlace(Place):
    """A core in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.core = MemoryCore(random.Random(1).random)

    async def up(self) -> None:
        self.core.restart()

    def kill(self) -> None:
        self.core.crash()

    async def down(self) -> None:
        await super().down()
        self.core.crash()

    def make(self, role: str, name: str, *, options: Options = QUICK) -> MemoryFabric:
        link = MemoryFabric(
            self.core, name, role, spawn=self.spawn, on_error=self.complain, options=options
        )
        self._links.append(link)
        return link


@contextlib.asynccontextmanager
async def opened(place: Place) -> AsyncIterator[None]:
    """The place is up; nothing of it may be left afterwards."""
    before = asyncio.all_tasks()  # of fixtures with a wider scope
    await place.up()
    try:
        yield
    finally:
        await place.down()
    # anyio runs each part of a test in a task of its own runner.
    others = asyncio.all_tasks() - before
    left = [task for task in others if "TestRunner" not in repr(task.get_coro())]
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

    def __init__(self, link: Fabric) -> None:
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
