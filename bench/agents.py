"""Light agents, many in one process: protocol-true on the wire, with memory instead of a machine.

What crosses is real: an enrolment with a key of its own for each, a link to the fabric of its own
(the agent's own code, with its reconnects), envelopes verified and answered, facts stored until
they are acked, output as chunks, a beat every 5 s, `release` obeyed. What lies behind is not: an
attempt is an object, nothing is written to a disk and no process is started. A command ends at
once, or does what the words of agent/simulated/behaviour.py say (`sim ticks=20 every=0.5 exit=3`).
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from functools import partial

import msgspec

from quarterdeck.agent.simulated.behaviour import Behaviour, behaviour, piece, stream_of
from quarterdeck.core.ids import split_attempt
from quarterdeck.core.model import STREAMS
from quarterdeck.core.states import Phase
from quarterdeck.core.stream import Mark
from quarterdeck.errors import Denied, Invalid, Unavailable
from quarterdeck.fabric.base import Message, Refused, Stored
from quarterdeck.fabric.identity import Identity, verify
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.service import Services, entropy, jitter
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, decode, encode, encode_chunk, open_envelope
from quarterdeck.wire.enrol import Credentials
from quarterdeck.wire.marks import encode_marks
from quarterdeck.wire.run import (
    AnswerItem,
    Answers,
    AttemptRefused,
    AttemptReleased,
    AttemptSnapshot,
    AttemptUnknown,
    BeatNow,
    FactsMessage,
    Heartbeat,
    LoadMessage,
    OrderItem,
    Orders,
    OutputBytes,
    ReadOutput,
    ReleaseAttempt,
    ReportAttempt,
    RevokeAttempt,
    SignalAttempt,
    StartAttempt,
    StopAttempt,
    StreamEndMessage,
)

HEARTBEAT_S = 5.0
RETRY_S = 0.5
CPUS = 64
ECHO = "echo"


class SimulatedAttempt:
    """One attempt: its facts, its output, and the timers of its command."""

    def __init__(self, agent: SimulatedAgent, attempt: str, does: Behaviour) -> None:
        self.attempt = attempt
        self.output = {name: bytearray() for name in (*STREAMS, "times")}
        self.facts = AttemptSnapshot(
            attempt=attempt, revision=1, phase=Phase.ACCEPTED.value, accepted_at=time.time()
        )
        self._agent = agent
        self._does = does
        self._ticks = 0
        self._subject = subjects.output(agent.node, split_attempt(attempt)[0], attempt)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_soon(self._begin)

    @property
    def ended(self) -> bool:
        return self.facts.phase == Phase.ENDED.value

    def stop(self, count: int, number: int) -> None:
        """A stop is obeyed at once, unless the command is stubborn and it is not KILL."""
        if self.ended or count <= self.facts.stops:
            return
        self._change(stops=count, phase=Phase.STOPPING.value)
        if not self._does.stubborn or number == signal.SIGKILL:
            self._end(signal=number, reason="cancelled")

    def signalled(self, number: int) -> None:
        """The command takes note."""
        if not self.ended and number > self.facts.signals:
            self._change(signals=number, signalled=number)

    def forget(self) -> None:
        self._timer.cancel()

    def _begin(self) -> None:
        if self._does.ticks == 0:
            self._end(exit_code=self._does.exit, started_at=time.time())
            return
        self._change(phase=Phase.RUNNING.value, started_at=time.time())
        self._agent.tell(self.facts)
        self._tick()

    def _tick(self) -> None:
        if self._ticks >= self._does.ticks:
            self._end(exit_code=self._does.exit)
            return
        number, self._ticks = self._ticks, self._ticks + 1
        stream, now_us = stream_of(number), time.time_ns() // 1000
        data = piece(self.attempt, number, self._does.size)
        at = len(self.output[stream])
        self.output["times"] += encode_marks([Mark(stream, at, now_us)])
        self.output[stream] += data
        chunk = encode_chunk(Chunk(stream, at, now_us, data))
        self._agent.fabric.store(self._subject, chunk)
        self._timer = asyncio.get_running_loop().call_later(self._does.every, self._tick)

    def _end(self, **fields: object) -> None:
        self._timer.cancel()
        self._change(
            phase=Phase.ENDED.value,
            ended_at=time.time(),
            cached=True,
            stdout=_stream_end(self.output["stdout"]),
            stderr=_stream_end(self.output["stderr"]),
            **fields,
        )
        self._agent.tell(self.facts)

    def _change(self, **fields: object) -> None:
        revision = self.facts.revision + 1
        self.facts = msgspec.structs.replace(self.facts, revision=revision, **fields)


def _stream_end(data: bytearray) -> StreamEndMessage:
    if not data:
        return StreamEndMessage()
    return StreamEndMessage(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class SimulatedAgent:
    """One node: its key, its link, its attempts."""

    def __init__(self, name: str, key: Identity, given: Credentials, services: Services) -> None:
        self.name = name
        self.node = given.node
        self.standing_since = 0.0
        self.lost = 0
        self._given = given
        self._services = services
        self._session = entropy(8).hex()
        self._facts = FactsMessage(os="simulated", cpus=CPUS, hostname=name)
        self._attempts: dict[str, SimulatedAttempt] = {}
        self._buried: set[str] = set()
        self._beats = 0
        self._beat_at: asyncio.TimerHandle | None = None
        self.fabric = NatsFabric(
            given.fabric_urls,
            given.node,
            jwt_source=self._jwt,
            signer=key.sign,
            spawn=services.spawn,
            random=jitter,
            on_error=self._noticed,
        )

    async def start(self) -> None:
        """Dial, listen, beat; the beats go on by themselves, each node's at its own moment."""
        await self.fabric.start()
        self._connected()
        self.fabric.on_connect(self._connected)
        await self.fabric.subscribe(subjects.orders(self.node), self._ordered)
        await self.fabric.subscribe(subjects.beat_now(self.node), self._asked)
        await self.fabric.subscribe(f"cmd.{self.node}.{ECHO}", self._echoed)
        self._beat_at = asyncio.get_running_loop().call_later(HEARTBEAT_S * jitter(), self._beat)
        await self._send_beat()

    async def stop(self) -> None:
        if self._beat_at is not None:
            self._beat_at.cancel()
        for attempt in self._attempts.values():
            attempt.forget()
        await self.fabric.stop()

    @property
    def holds(self) -> int:
        """How many attempts it was not told to release."""
        return len(self._attempts)

    def tell(self, facts: AttemptSnapshot) -> None:
        """Store a fact until the fabric has it; one that a full stream refused goes again."""
        data = encode(msgspec.structs.replace(facts, session=self._session))
        id = f"{self._session}:{facts.attempt}:{facts.revision}:{int(facts.cached)}"
        stored = self.fabric.store(subjects.snapshots(self.node), data, message_id=id)
        stored.add_done_callback(partial(self._told, facts))

    def _told(self, facts: AttemptSnapshot, answer: asyncio.Future[Stored | Refused]) -> None:
        known = self._attempts.get(facts.attempt)
        if answer.cancelled() or known is None or known.facts is not facts:
            return  # or there is a newer one on its way
        if isinstance(answer.result(), Refused):
            asyncio.get_running_loop().call_later(RETRY_S * jitter(), self.tell, facts)

    async def _jwt(self) -> str:
        return self._given.jwt

    def _noticed(self, text: str) -> None:
        if text.startswith("link to the fabric lost"):
            self.lost += 1

    def _connected(self) -> None:
        self.standing_since = time.monotonic()
        if self._beat_at is not None:  # at the first time there is nobody yet who could answer
            self._services.spawn(self._send_beat(), "beat")

    def _beat(self) -> None:
        self._beat_at = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)
        self._services.spawn(self._send_beat(), "beat")

    def _asked(self, message: Message) -> None:
        wish: BeatNow = decode(message.data, BeatNow)
        delay_s = min(wish.within_s, HEARTBEAT_S) * jitter()
        asyncio.get_running_loop().call_later(
            delay_s, lambda: self._services.spawn(self._send_beat(), "beat")
        )

    async def _send_beat(self) -> None:
        self._beats += 1
        held = sorted((id, a.facts.revision) for id, a in self._attempts.items())
        beat = Heartbeat(
            node=self.node,
            session=self._session,
            number=self._beats,
            name=self.name,
            at=time.time(),
            facts=self._facts,
            load=LoadMessage(attempts=len(held), disk_free=1 << 40),
            labels={"simulated": "yes"},
            attempts=tuple(held[:500]),
            attempt_count=len(held),
        )
        try:
            await self.fabric.publish(subjects.beat(self.node), encode(beat))
        except Unavailable:
            return  # the next connection beats

    def _echoed(self, message: Message) -> None:
        self._services.spawn(self._answer(message.reply, b""), "echo")

    def _ordered(self, message: Message) -> None:
        self._services.spawn(self._obey(message), "order")

    async def _obey(self, message: Message) -> None:
        try:
            sealed = open_envelope(
                message.data, to=self.node, session=self._session, verify=self._verify
            )
            orders: Orders = decode(sealed.body, Orders)
        except (Invalid, Denied) as error:
            if error.code == "wrong_session":
                await self._answer(
                    message.reply, encode(Answers(node=self.node, session=self._session))
                )
            return
        items = tuple(self._do(item) for item in orders.items)
        answers = Answers(node=self.node, session=self._session, items=items)
        await self._answer(message.reply, encode(answers))

    async def _answer(self, reply: str, data: bytes) -> None:
        try:
            await self.fabric.publish(reply, data)
        except Unavailable:
            return  # the server asks again at the next beat

    def _verify(self, data: bytes, signature: bytes) -> bool:
        return any(verify(key, data, signature) for key in self._given.order_keys)

    def _do(self, item: OrderItem) -> AnswerItem:
        id = item.attempt
        known = self._attempts.get(id)
        if isinstance(item, StartAttempt):
            if known is None and id not in self._buried:
                known = self._attempts[id] = SimulatedAttempt(self, id, behaviour(item.order))
        elif isinstance(item, RevokeAttempt):
            if known is None:
                self._buried.add(id)
        elif known is None:
            gone = isinstance(item, ReleaseAttempt) and id in self._buried
            return AttemptReleased(attempt=id) if gone else AttemptUnknown(attempt=id)
        if known is None:
            return AttemptRefused(attempt=id, code="revoked", text="It was called off.")
        return self._change(known, item)

    def _change(self, known: SimulatedAttempt, item: OrderItem) -> AnswerItem:
        match item:
            case StopAttempt(count=count, signal=number):
                known.stop(count, number)
            case SignalAttempt(signals=signals):
                known.signalled(max((one.number for one in signals), default=0))
            case ReleaseAttempt(attempt=id) if known.ended:
                known.forget()
                del self._attempts[id]
                self._buried.add(id)
                return AttemptReleased(attempt=id)
            case ReadOutput(stream=stream) if stream in known.output:
                return _read(known, item)
            case StartAttempt() | ReportAttempt() | RevokeAttempt():
                pass
            case _:
                return AttemptUnknown(attempt=known.attempt)
        return known.facts


def _read(known: SimulatedAttempt, item: ReadOutput) -> OutputBytes:
    data = known.output[item.stream]
    return OutputBytes(
        attempt=known.attempt,
        stream=item.stream,
        offset=item.offset,
        data=bytes(data[item.offset : item.offset + item.length]),
        size=len(data),
        final=known.ended,
    )
