"""One connection to a far end: from its greeting to its loss, with the mirror of what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from quarterdeck.agent.ssh.channel import Channel, Wire, failure
from quarterdeck.agent.ssh.mirror import Figures, Hello, Mirror
from quarterdeck.core.ids import split_attempt
from quarterdeck.errors import Unavailable
from quarterdeck.service import Services

PING_S = 5.0
ANSWER_S = 15.0
HELLO_S = 30.0

Reach = Callable[[], Awaitable[Wire]]


class FarLink:
    """`reach` connects, checks the host's key and starts the far end. Raises Unavailable or Denied.

    A link is opened once; when its connection ends it is lost for good.
    """

    def __init__(self, reach: Reach, services: Services) -> None:
        self._reach = reach
        self._services = services
        self._opened: Channel | None = None
        self._begun = asyncio.Event()
        self._greeted: asyncio.Future[Hello] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.mirror = Mirror()
        self.hello: Hello | None = None
        self.figures: Figures | None = None

    async def open(self) -> None:
        """Raises Unavailable, Denied, or Conflict while another connection has the directory."""
        wire = await self._reach()
        channel = self._opened = Channel(wire, self._told)
        self._begun.set()
        self._greeted = asyncio.get_running_loop().create_future()
        self._tasks.append(self._services.spawn(channel.listen(), "ssh"))
        channel.lost.add_done_callback(self._lost_before_hello)
        try:
            async with asyncio.timeout(HELLO_S):
                self.hello = self.figures = await self._greeted
        except TimeoutError as error:
            raise Unavailable("ssh_far", "The far end does not answer.") from error
        self.mirror.fill(self.hello)
        self._tasks.append(self._services.spawn(self._ping(channel), "ping"))

    async def close(self) -> None:
        """Leave the far end. May be called twice."""
        channel, self._opened = self._opened, None
        if channel is not None:
            await channel.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until_lost(self) -> str:
        """Wait for a connection and for its end; why it ended."""
        await self._begun.wait()
        return await asyncio.shield(self.channel.lost)

    @property
    def channel(self) -> Channel:
        """Raises Unavailable before it was opened and after it was closed."""
        if self._opened is None:
            raise Unavailable("ssh_lost", "There is no connection.")
        return self._opened

    async def ask(self, do: str, attempt: str, **fields: object) -> Any:
        """Have the far end do something with an attempt. Raises Invalid for what is none."""
        split_attempt(attempt)
        return await self.channel.ask(do, attempt=attempt, **fields)

    def tell(self, do: str, **fields: object) -> None:
        """Have it do what may as well be lost."""
        self._services.spawn(self.channel.tell(do, **fields), do)

    def _told(self, head: dict[str, Any]) -> None:
        """Everything that the far end says, in order. What can't be understood ends it."""
        if "state" in head:
            self.mirror.take(head["attempt"], head["state"])
        greeted = self._greeted
        if greeted is None or greeted.done():
            return
        if head.get("event") == "hello":
            greeted.set_result(msgspec.convert(head, Hello))
        elif head.get("event") == "refused":
            greeted.set_exception(failure(head))

    def _lost_before_hello(self, lost: asyncio.Future[str]) -> None:
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_exception(Unavailable("ssh_far", lost.result()))

    async def _ping(self, channel: Channel) -> None:
        """Ask now and then, so that both ends know of each other, and for the figures."""
        while True:
            await asyncio.sleep(PING_S)
            try:
                async with asyncio.timeout(ANSWER_S):
                    self.figures = msgspec.convert(await channel.ask("ping"), Figures)
            except TimeoutError:
                channel.end(f"The host has not answered for {ANSWER_S:.0f} s.")
                return
