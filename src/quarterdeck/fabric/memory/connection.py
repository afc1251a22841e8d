"""The principal's end of a connection in memory: what nats-py's client is over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quarterdeck.fabric.connection import ROOM, RawHandler, in_time, not_reached
from quarterdeck.fabric.memory.core import MemoryCore
from quarterdeck.fabric.memory.route import Session
from quarterdeck.fabric.nats.link import Options
from quarterdeck.service import caught

_COMMAND_BYTES = 64


class MemoryConnection:
    """See `Connection`. Dead silence is noticed after some looks, as with pings."""

    def __init__(
        self,
        core: MemoryCore,
        who: str,
        role: str,
        options: Options,
        lost: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        self.lost_reason: str | None = None
        self.on_lost: dict[Callable[[], None], None] = {}
        self.max_payload = core.max_payload
        self.unsent = 0
        self._core = core
        self._who = who
        self._role = role
        self._options = options
        self._tell_lost = lost
        self._complain = complain
        self._session: Session | None = None
        self._handlers: dict[int, RawHandler] = {}
        self._last_sid = 0
        self._pongs: list[asyncio.Future[bool]] = []
        self._roomless: list[asyncio.Future[None]] = []
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, url: str) -> None:
        self._core.admits(url, self._who)
        if not self._core.reachable(self._who):
            await asyncio.sleep(self._options.connect_timeout_s)
            raise not_reached(url, "no answer")
        await asyncio.sleep(2 * self._core.faults.latency_s)
        self._core.admits(url, self._who)
        self._session = self._core.dial(self._who, self._role, self)
        if not self._core.reachable(self._who):
            self._session.up.blocked = self._session.down.blocked = True
        self._look_later()

    async def dispose(self) -> None:
        self.crash()

    def crash(self) -> None:
        """As `dispose`: a kernel closes the sockets of the dead."""
        self.lost_reason = self.lost_reason or "closed here"
        self._quiet()
        if self._session is not None and not self._session.hung_up:
            self._core.hang_up(self._session)

    def over(self, reason: str) -> None:
        if self.lost_reason is not None:
            return
        self.lost_reason = reason
        self._quiet()
        for callback in list(self.on_lost):
            callback()
        self._tell_lost(reason)

    def _quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pong in self._pongs:
            if not pong.done():
                pong.set_result(False)
        self._pongs.clear()
        self._make_room()

    def _look_later(self) -> None:
        pause = self._options.ping_interval_s
        self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        self._looks = 0 if self._core.reachable(self._who) else self._looks + 1
        if self._looks > self._options.pings_outstanding:
            self.over("nothing moved for too long")
        else:
            self._look_later()

    # What the core calls.

    def receive(
        self, sid: int, subject: str, reply: str, data: bytes, headers: bytes | None
    ) -> None:
        handler = self._handlers.get(sid)
        if handler is None or self._session is None or self._session.hung_up:
            return
        _, error = caught(lambda: handler(subject.encode(), reply.encode(), data, headers))
        if error is not None:
            self._complain(f"the handler of {subject} raised {error!r}")

    def refused(self, text: str) -> None:
        if self.lost_reason is None:
            self._complain(text)

    # Sending

    def _send(self, size: int, arrive: Callable[[Session], None]) -> None:
        session = self._session
        if session is None or self.lost_reason is not None:
            return
        self.unsent += size

        def arrived() -> None:
            self.unsent -= size
            if self._roomless and self.unsent <= ROOM:
                self._make_room()
            arrive(session)

        self._core.wire.send(session.up, arrived)

    def _make_room(self) -> None:
        for waiting in self._roomless:
            if not waiting.done():
                waiting.set_result(None)
        self._roomless.clear()

    def post(
        self, subject: str, data: bytes | bytearray, reply: str = "", headers: bytes = b""
    ) -> None:
        size = len(data) + len(headers) + _COMMAND_BYTES
        taken = bytes(data)
        self._send(size, lambda session: session.publish(subject, reply, taken, headers))

    def attach(self, subject: str, handler: RawHandler, queue: str = "") -> int:
        self._last_sid += 1
        sid = self._last_sid
        self._handlers[sid] = handler
        self._send(_COMMAND_BYTES, lambda session: session.subscribe(sid, subject, queue))
        return sid

    def detach(self, sid: int) -> None:
        if self._handlers.pop(sid, None) is not None:
            self._send(_COMMAND_BYTES, lambda session: session.unsubscribe(sid))

    def retire(self, sid: int, last: RawHandler) -> None:
        if sid not in self._handlers or self.lost_reason is not None:
            return
        self._handlers[sid] = last
        self._send(_COMMAND_BYTES, lambda session: session.unsubscribe(sid))
        self._ping().add_done_callback(lambda _: self._handlers.pop(sid, None))

    def _ping(self) -> asyncio.Future[bool]:
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)

        def answer() -> None:
            if pong in self._pongs:
                self._pongs.remove(pong)
            if not pong.done():
                pong.set_result(True)

        self._send(_COMMAND_BYTES, lambda session: session.ping(answer))
        return pong

    async def room(self) -> None:
        while self.unsent > ROOM and self.lost_reason is None:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._roomless.append(waiting)
            await waiting

    async def barrier(self, timeout_s: float) -> bool:
        return self.lost_reason is None and await in_time(self._ping(), timeout_s)
