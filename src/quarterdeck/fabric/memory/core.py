"""The nats-server of the memory fabric: sessions, subjects, rights, JetStream, and its mishaps.

A `Session` is the core's end of one connection. It lives until the core notices that the other end
is gone, as a real server does: a principal in a black hole keeps its subscriptions for `stale_s`,
and what is sent to it meanwhile is lost with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from quarterdeck.fabric.connection import not_admitted, not_reached
from quarterdeck.fabric.memory.interest import Interest
from quarterdeck.fabric.memory.jetstream import JetStream
from quarterdeck.fabric.memory.rights import Rights
from quarterdeck.fabric.memory.wire import Faults, Pipe, Wire
from quarterdeck.fabric.nats.streams import ACK_MARK

_STALE_S = 360.0
_NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
URL = "memory"
_ACK = ACK_MARK.decode()


class Far(Protocol):
    """The principal's end of a connection."""

    def receive(
        self, sid: int, subject: str, reply: str, data: bytes, headers: bytes | None
    ) -> None: ...
    def refused(self, text: str) -> None: ...
    def over(self, reason: str) -> None: ...


class _Listener(NamedTuple):
    session: Session
    sid: int
    queue: str


class Session:
    """`up` leads to the core, `down` from it."""

    def __init__(self, core: MemoryCore, who: str, role: str, far: Far) -> None:
        self.who = who
        self.rights = Rights(who, role)
        self.far = far
        self.up = Pipe()
        self.down = Pipe()
        self.alive = True
        self.hung_up = False
        self._core = core
        self.subjects: dict[int, tuple[str, int]] = {}

    def subscribe(self, sid: int, subject: str, queue: str) -> None:
        if not self.rights.may_subscribe(subject):
            self._core.refuse(self, f'permissions violation for subscription to "{subject}"')
            return
        number = self._core.interest.add(subject, _Listener(self, sid, queue))
        self.subjects[sid] = (subject, number)

    def unsubscribe(self, sid: int) -> None:
        if sid in self.subjects:
            self._core.interest.remove(*self.subjects.pop(sid))

    def publish(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if self.rights.may_publish(subject, now):
            self._core.publish(self, subject, reply, data, headers)
        else:
            self._core.refuse(self, f'permissions violation for publish to "{subject}"')

    def ping(self, pong: Callable[[], None]) -> None:
        self._core.wire.send(self.down, pong)

    def give(self, sid: int, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        if reply and not reply.startswith("$JS."):
            self.rights.received(reply, asyncio.get_running_loop().time())
        self._core.wire.send(
            self.down, lambda: self.far.receive(sid, subject, reply, data, headers)
        )


class MemoryCore:
    """`random` decides every fault; `faults` may be changed while all is running.

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
        self._faults = faults or Faults()
        self.max_payload = max_payload
        self.wire = Wire(random, self._faults)
        self.interest: Interest[_Listener] = Interest()
        self.running = True
        self._stale_s = stale_s
        self._inside = Pipe()
        self._sessions: list[Session] = []
        self._partitioned: dict[str, None] = {}
        self._revoked: dict[str, None] = {}
        self._stale: dict[str, asyncio.TimerHandle] = {}
        self._jetstream = JetStream(self._post, lambda to: bool(self.interest.find(to)))

    @property
    def faults(self) -> Faults:
        return self._faults

    # Mishaps

    def crash(self) -> None:
        """As kill -9: links are cut, all that was under way is lost, streams stay."""
        if not self.running:
            return
        self.running = False
        self._inside.broken = True
        self._inside = Pipe()
        self._jetstream.crash()
        for session in list(self._sessions):
            session.down.broken = True
            self._end(session, "the reader ended")

    def restart(self) -> None:
        if not self.running:
            self.running = True
            self._jetstream.restarted()

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
        self._jetstream.streams[stream].full = True

    def empty(self, stream: str) -> None:
        """Undo `fill`; what the stream holds stays."""
        self._jetstream.streams[stream].full = False

    def held(self, stream: str) -> int:
        """How many messages the stream holds now."""
        return len(self._jetstream.streams[stream].entries)

    # What connections call.

    def admits(self, url: str, who: str) -> None:
        """Raises `Unavailable` or `Denied` as a dial would."""
        if not self.running:
            raise not_reached(url, "connection refused")
        if who in self._revoked:
            raise not_admitted(url, who)

    def dial(self, who: str, role: str, far: Far) -> Session:
        session = Session(self, who, role, far)
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

    def refuse(self, session: Session, text: str) -> None:
        # nats-py, too, gives it in lower case.
        self.wire.send(session.down, lambda: session.far.refused(text.lower()))

    def publish(
        self, session: Session, subject: str, reply: str, data: bytes, headers: bytes
    ) -> None:
        """Pass a message on: to a stream, to JetStream itself, to present listeners."""
        faults, inside = self._faults, self._inside
        stream = self._jetstream.stream_of(subject)
        taken = False
        if stream is not None:
            taken = True

            def store() -> None:
                answer = self._jetstream.store(stream, subject, headers, data)
                if reply:
                    self.wire.meet(inside, faults.acks, lambda: self._post(reply, answer))

            self.wire.meet(inside, faults.stores, store)
        elif subject.startswith(_ACK):
            taken = True
            self.wire.meet(inside, faults.acks, lambda: self._jetstream.handle(subject, "", data))
        elif subject.startswith("$JS."):
            taken = self._jetstream.handle(subject, reply, data)
        if self.interest.find(subject):
            self.wire.meet(
                inside,
                faults.core,
                lambda: self._post(subject, data, headers, reply=reply),
            )
        elif not taken and reply:
            self._nobody(session, reply)

    def _nobody(self, session: Session, reply: str) -> None:
        for listener in self.interest.find(reply):
            if listener.session is session:
                session.give(listener.sid, reply, "", b"", _NO_RESPONDERS)
                return

    def _post(
        self, to: str, data: bytes, headers: bytes = b"", *, subject: str = "", reply: str = ""
    ) -> bool:
        groups: dict[str, list[_Listener]] = {}
        chosen: list[_Listener] = []
        for listener in self.interest.find(to):
            if listener.queue:
                groups.setdefault(listener.queue, []).append(listener)
            else:
                chosen.append(listener)
        chosen += [group[int(self.random() * len(group))] for group in groups.values()]
        for session, sid, _ in chosen:
            session.give(sid, subject or to, reply, data, headers or None)
        return bool(chosen)

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
