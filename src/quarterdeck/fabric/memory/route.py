"""Passing messages on in the memory fabric: to listeners, streams and JetStream, with rights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from quarterdeck.fabric.memory.interest import Interest
from quarterdeck.fabric.memory.jetstream import JetStream
from quarterdeck.fabric.memory.rights import Rights
from quarterdeck.fabric.memory.wire import Faults, Pipe, Wire
from quarterdeck.fabric.nats.streams import ACK_MARK

_NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
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

    def __init__(self, router: Router, who: str, role: str, far: Far) -> None:
        self.who = who
        self.rights = Rights(who, role)
        self.far = far
        self.up = Pipe()
        self.down = Pipe()
        self.alive = True
        self.hung_up = False
        self._router = router
        self.subjects: dict[int, tuple[str, int]] = {}

    def subscribe(self, sid: int, subject: str, queue: str) -> None:
        if not self.rights.may_subscribe(subject):
            self._router.refuse(self, f'permissions violation for subscription to "{subject}"')
            return
        number = self._router.interest.add(subject, _Listener(self, sid, queue))
        self.subjects[sid] = (subject, number)

    def unsubscribe(self, sid: int) -> None:
        if sid in self.subjects:
            self._router.interest.remove(*self.subjects.pop(sid))

    def publish(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if self.rights.may_publish(subject, now):
            self._router.publish(self, subject, reply, data, headers)
        else:
            self._router.refuse(self, f'permissions violation for publish to "{subject}"')

    def ping(self, pong: Callable[[], None]) -> None:
        self._router.wire.send(self.down, pong)

    def give(self, sid: int, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        if reply and not reply.startswith("$JS."):
            self.rights.received(reply, asyncio.get_running_loop().time())
        self._router.wire.send(
            self.down, lambda: self.far.receive(sid, subject, reply, data, headers)
        )


class Router:
    """What is under way inside the core is in the pipe `inside`, and gone with it after a crash."""

    def __init__(self, random: Callable[[], float], faults: Faults) -> None:
        self.wire = Wire(random, faults)
        self.interest: Interest[_Listener] = Interest()
        self.jetstream = JetStream(self._post, lambda to: bool(self.interest.find(to)))
        self._random = random
        self._faults = faults
        self._inside = Pipe()

    def crash(self) -> None:
        self._inside.broken = True
        self._inside = Pipe()
        self.jetstream.crash()

    def refuse(self, session: Session, text: str) -> None:
        # nats-py, too, gives it in lower case.
        self.wire.send(session.down, lambda: session.far.refused(text.lower()))

    def publish(
        self, session: Session, subject: str, reply: str, data: bytes, headers: bytes
    ) -> None:
        """Pass a message on: to a stream, to JetStream itself, to present listeners."""
        faults, inside = self._faults, self._inside
        stream = self.jetstream.stream_of(subject)
        taken = False
        if stream is not None:
            taken = True

            def store() -> None:
                answer = self.jetstream.store(stream, subject, headers, data)
                if reply:
                    self.wire.meet(inside, faults.acks, lambda: self._post(reply, answer))

            self.wire.meet(inside, faults.stores, store)
        elif subject.startswith(_ACK):
            taken = True
            self.wire.meet(inside, faults.acks, lambda: self.jetstream.handle(subject, "", data))
        elif subject.startswith("$JS."):
            taken = self.jetstream.handle(subject, reply, data)
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
        chosen += [group[int(self._random() * len(group))] for group in groups.values()]
        for session, sid, _ in chosen:
            session.give(sid, subject or to, reply, data, headers or None)
        return bool(chosen)
