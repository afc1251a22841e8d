"""Keep one connection standing: dial, notice its end, dial again, with all subscriptions.

States: down -> dialling -> standing -> down ... for ever until `stop`. Every connection is
new; nothing of a lost one is used again. The login is asked for at each dial, so an expired one
mends itself as soon as its source has a new one.

WebSocket addresses are a way round: they are dialled when no other address answers, which is said
once. Who came that way dials it first when the link breaks, until `move` or `reconnect`; who came
by TCP tries that a few times more, as a fabric that restarts is away for everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from quarterdeck.errors import Denied, QuarterdeckError, Unavailable
from quarterdeck.fabric.connection import (
    ZOMBIE,
    Connect,
    Connection,
    RawHandler,
    is_websocket,
    not_reached,
)
from quarterdeck.service import Backoff, still_wanted

LOYAL_TRIES = 4
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Times and windows of one link; the defaults suit production."""

    connect_timeout_s: float = 5.0
    ping_interval_s: float = 20.0
    pings_outstanding: int = 2
    backoff_first_s: float = 0.2
    backoff_cap_s: float = 2.0
    denied_cap_s: float = 30.0
    ack_timeout_s: float = 5.0
    answer_timeout_s: float = 5.0
    idle_heartbeat_s: float = 5.0
    window_messages: int = 2048
    window_bytes: int = 16 << 20
    pull_bytes: int = 8 << 20


class Standing:
    """One subscription, made again on every connection."""

    def __init__(self, subject: str, handler: RawHandler, queue: str) -> None:
        self.subject = subject
        self.handler = handler
        self.queue = queue
        self.sid = 0


class Link:
    """`up(client)` and `down()` are called in the event loop at each change."""

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        *,
        connect: Connect,
        spawn: Spawn,
        random: Callable[[], float],
        options: Options,
        up: Callable[[Connection], None],
        down: Callable[[], None],
        complain: Callable[[str], None],
    ) -> None:
        self._urls = list(urls)
        self._name = name
        self._connect = connect
        self._spawn = spawn
        self._random = random
        self._options = options
        self._up = up
        self._down = down
        self._complain = complain
        self._standing: list[Standing] = []
        self._dead: list[Connection] = []
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._hurry = asyncio.Event()
        self._backoff = Backoff(options.backoff_first_s, options.backoff_cap_s, random)
        self._stood_since = 0.0
        self._roundabout = False  # the last connection was by WebSocket, for want of another
        self._task: asyncio.Task[None] | None = None
        self.client: Connection | None = None
        self.stopped = False

    async def start(self) -> None:
        if self._task is not None:
            return
        await self._dial_any()
        self._task = self._spawn(self._keep(), f"fabric link of {self._name}")

    async def stop(self) -> None:
        self.stopped = True
        self._hurry.set()
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
            if self.client is not None:
                await self.client.barrier(min(1.0, self._options.connect_timeout_s))
        finally:  # also for one who is told to end while stopping
            if self.client is not None:
                self._lose(self.client, "stopped")
            await self._bury()
            self._ready.set()  # nobody waits for a link that will not come

    def abandon(self) -> None:
        """End without a word to the fabric, as a killed process does; `stop` tidies up after."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()
        if self.client is not None:
            self._lose(self.client, "abandoned")
        self._ready.set()

    def move(self, urls: Sequence[str]) -> None:
        """Dial these addresses from now on."""
        if list(urls) != self._urls:
            self._roundabout = False
        self._urls = list(urls)

    def reconnect(self) -> None:
        """Drop the connection, if any, and dial at once, to use a new login."""
        self._roundabout = False
        self._hurry.set()
        if self.client is not None:
            self._lose(self.client, "reconnecting with a new login")

    async def wait_up(self) -> Connection | None:
        """The standing connection, now or later; None when the link was stopped."""
        while self.client is None and not self.stopped:
            await self._ready.wait()
        return self.client

    def add(self, standing: Standing) -> None:
        self._standing.append(standing)
        if self.client is not None:
            standing.sid = self.client.attach(standing.subject, standing.handler, standing.queue)

    def remove(self, standing: Standing) -> None:
        if standing in self._standing:
            self._standing.remove(standing)
            if self.client is not None:
                self.client.detach(standing.sid)

    async def _keep(self) -> None:
        """Waits for: the end of the connection, then the next attempt to dial."""
        while not self.stopped:
            still_wanted()  # asyncio.wait_for, which nats-py dials with, may swallow a cancellation
            await self._lost.wait()
            self._lost.clear()
            await self._bury()
            if self.client is None:
                await self._mend()

    async def _mend(self) -> None:
        options, told = self._options, ""
        cap = options.backoff_cap_s
        if asyncio.get_running_loop().time() - self._stood_since > cap:
            self._backoff.reset()  # else it was cut at once, perhaps for what we sent
        while not self.stopped:
            await self._pause(self._backoff.wait_s(cap_s=cap))
            try:
                await self._dial_any()
                return
            except QuarterdeckError as error:
                # When denied, only a new login helps: do not hammer the fabric with the old one.
                cap = options.denied_cap_s if isinstance(error, Denied) else options.backoff_cap_s
                if error.message != told:
                    told = error.message
                    self._complain(told)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    async def _dial_any(self) -> None:
        """One try of each address, in random order, those of the present way first; raises the
        most telling error."""
        worst: QuarterdeckError = Unavailable(
            "fabric_no_address",
            "No address of a fabric is known here: give one, or `auto`, as the setting `fabric` "
            "of an agent or `fabric_url` of a server.",
        )

        others = [url for url in self._urls if not is_websocket(url)]
        patient = self._stood_since > 0 and not self._roundabout
        urls = others if others and patient and self._backoff.failures < LOYAL_TRIES else self._urls

        def turn(url: str) -> tuple[bool, float]:
            return is_websocket(url) != self._roundabout, self._random()

        for url in sorted(urls, key=turn):
            try:
                try:
                    await self._dial(url)
                except Unavailable as error:
                    if error.code != ZOMBIE:
                        raise
                    await self._dial(url)  # a matter of timing: the next one is well
                self._notice_way(url)
                return
            except (Unavailable, Denied) as error:
                still_wanted()
                if not isinstance(worst, Denied):
                    worst = error
        raise worst

    def _notice_way(self, url: str) -> None:
        others = [other for other in self._urls if not is_websocket(other)]
        before, self._roundabout = self._roundabout, is_websocket(url) and bool(others)
        if self._roundabout and not before:
            self._complain(
                f"the fabric at {', '.join(others)} can't be reached from here: using {url}"
            )

    async def _dial(self, url: str) -> None:
        client = self._connect(lambda reason: self._lose(client, reason), self._complain)
        await client.open(url)
        # In one turn of the loop: whoever subscribes from now on finds the client.
        for standing in self._standing:
            standing.sid = client.attach(standing.subject, standing.handler, standing.queue)
        self.client = client
        self._ready.set()
        usable = False
        try:
            usable = await client.barrier(self._options.connect_timeout_s)
        finally:
            if not usable:
                self._lose(client, "not usable after the handshake")
                await self._bury()
        if not usable:
            raise not_reached(url, "it went away at once")
        self._stood_since = asyncio.get_running_loop().time()
        self._up(client)

    def _lose(self, client: Connection, reason: str) -> None:
        if client is not self.client:
            return
        self.client = None
        self._ready.clear()
        self._dead.append(client)
        if not self.stopped:
            self._complain(f"link to the fabric lost: {reason}")
        self._down()
        client.over(reason)
        self._lost.set()

    async def _bury(self) -> None:
        while self._dead:
            await self._dead[-1].dispose()
            self._dead.pop()
