"""The nats-server of the memory fabric: who is connected, and its mishaps.

A `Session` is the core's end of one connection. It lives until the core notices that the other end
is gone, as a real server does: a principal in a black hole keeps its subscriptions for `stale_s`,
and what is sent to it meanwhile is lost with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quarterdeck.fabric.connection import not_admitted, not_reached
from quarterdeck.fabric.memory.route import Far, Router, Session
from quarterdeck.fabric.memory.wire import Faults, Wire

_STALE_S = 360.0
URL = "memory"


class MemoryCore:
    """`random` decides every fault; the fields of `faults` may be changed while all is running.

    `partition` and `heal`, `cut`, `crash` and `restart`, `revoke` and `admit`, `fill` and `empty`
    take effect at once.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        faults: Faults | None = None,
        max_payload: int = 8 << 20,
        stale_s: float = _STALE_S,
    ) -> None:
        self.random = random
        self.faults = faults or Faults()
        self.max_payload = max_payload
        self.running = True
        self._stale_s = stale_s
        self._sessions: list[Session] = []
        self._partitioned: dict[str, None] = {}
        self._revoked: dict[str, None] = {}
        self._stale: dict[str, asyncio.TimerHandle] = {}
        self._router = Router(random, self.faults)

    @property
    def wire(self) -> Wire:
        return self._router.wire

    # Mishaps

    def crash(self) -> None:
        """As kill -9: links are cut, all that was under way is lost, streams stay."""
        if not self.running:
            return
        self.running = False
        self._router.crash()
        for session in list(self._sessions):
            session.down.broken = True
            self._end(session, "the reader ended")

    def restart(self) -> None:
        if not self.running:
            self.running = True
            self._router.jetstream.restarted()

    def partition(self, who: str) -> None:
        """A black hole around a principal: nothing passes, neither side is told."""
        if who in self._partitioned:
            return
        self._partitioned[who] = None
        for session in self._of(who):
            session.up.blocked = session.down.blocked = True
        loop = asyncio.get_running_loop()
        self._stale[who] = loop.call_later(self._stale_s, self._notice_stale, who)

    def heal(self, who: str) -> None:
        """What was held goes on, on connections that nobody has given up."""
        if who not in self._partitioned:
            return
        del self._partitioned[who]
        self._stale.pop(who).cancel()
        for session in self._of(who):
            if session.hung_up:
                self._end(session, "")
            elif not session.alive:
                self._forget(session)
                session.far.over("the reader ended")
            else:
                self.wire.open(session.up)
                self.wire.open(session.down)

    def reachable(self, who: str) -> bool:
        return who not in self._partitioned

    def cut(self, who: str, reason: str = "the reader ended") -> None:
        """End the connections of a principal; both sides know. It may dial again."""
        for session in self._of(who):
            self._end(session, reason)

    def revoke(self, who: str) -> None:
        """Cut a principal and let it in no more."""
        self._revoked[who] = None
        self.cut(who, "the fabric said authentication revoked")

    def admit(self, who: str) -> None:
        """Undo `revoke`."""
        self._revoked.pop(who, None)

    def fill(self, stream: str) -> None:
        """The stream refuses everything as full, until `empty`."""
        self._router.jetstream.streams[stream].full = True

    def empty(self, stream: str) -> None:
        """Undo `fill`; what the stream holds stays."""
        self._router.jetstream.streams[stream].full = False

    def held(self, stream: str) -> int:
        """How many messages the stream holds now."""
        return len(self._router.jetstream.streams[stream].entries)

    # What connections call.

    def admits(self, url: str, who: str) -> None:
        """Raises `Unavailable` or `Denied` as a dial would."""
        if not self.running:
            raise not_reached(url, "connection refused")
        if who in self._revoked:
            raise not_admitted(url, who)

    def dial(self, who: str, role: str, far: Far) -> Session:
        session = Session(self._router, who, role, far)
        self._sessions.append(session)
        return session

    def hang_up(self, session: Session) -> None:
        """The principal's end was closed: what has not arrived yet is lost."""
        session.hung_up = True
        for pipe in (session.up, session.down):
            pipe.broken = True
            pipe.held.clear()
        if self.reachable(session.who):
            self._end(session, "")

    # Ends of sessions

    def _of(self, who: str) -> list[Session]:
        return [session for session in self._sessions if session.who == who]

    def _end(self, session: Session, reason: str) -> None:
        """The core is done with it; the other end learns of it unless there is a partition."""
        if session.alive:
            session.alive = False
            session.up.broken = True
            for sid in list(session.subjects):
                session.unsubscribe(sid)
        if self.reachable(session.who) or session.hung_up:
            self._forget(session)
        if self.reachable(session.who) and not session.hung_up:
            far = session.far
            if session.down.broken:
                asyncio.get_running_loop().call_soon(far.over, reason)
            else:
                self.wire.send(session.down, lambda: far.over(reason))

    def _forget(self, session: Session) -> None:
        if session in self._sessions:
            self._sessions.remove(session)

    def _notice_stale(self, who: str) -> None:
        loop = asyncio.get_running_loop()
        self._stale[who] = loop.call_later(self._stale_s, self._notice_stale, who)
        for session in self._of(who):
            self._end(session, "stale connection")
