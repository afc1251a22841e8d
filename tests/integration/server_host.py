"""A real server (store, fabric, loops) for tests, and a node that is driven by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec

from quarterdeck.control.main import Server
from quarterdeck.control.parts import Parts, open_parts
from quarterdeck.control.run import NewRun
from quarterdeck.core.ids import node_id
from quarterdeck.core.model import Order
from quarterdeck.errors import Unavailable
from quarterdeck.fabric.base import Message
from quarterdeck.fabric.identity import Identity
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.service import Clock, Poke, Services, SystemClock
from quarterdeck.settings import Secret, ServerSettings
from quarterdeck.store.database import open_database
from quarterdeck.telemetry import Event, NodeSession, Telemetry
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import decode, encode, open_envelope
from quarterdeck.wire.enrol import Enrolment, signed_part
from quarterdeck.wire.run import (
    AnswerItem,
    Answers,
    AttemptSnapshot,
    FactsMessage,
    Heartbeat,
    LoadMessage,
    Orders,
)
from tests.contracts.fabric_place import QUICK
from tests.contracts.fabric_server import Harbour

E = TypeVar("E", bound=Event)
DEADLINE_S = 60.0
JOIN = "qd_join_0000000000000000_" + "0" * 32


class Ears:
    """Every event of a server; tests wait for one instead of sleeping."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self._more = asyncio.Event()

    def hear(self, event: Event) -> None:
        self.heard.append(event)
        self._more.set()

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.heard if isinstance(event, kind)]

    async def until(self, kind: type[E], number: int = 1) -> E:
        """The `number`th event of a kind, now or within the deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.all(kind)) < number:
                self._more.clear()
                await self._more.wait()
        return self.all(kind)[number - 1]


class HandNode:
    """A node on the fabric whose answers and facts the test writes."""

    def __init__(self, place: Harbour, server: Server, name: str) -> None:
        self.key = Identity.open(place.root / f"{name}.nk")
        self.id = node_id(self.key.public_key)
        self.name = name
        self.session = "session-1"
        self.orders: asyncio.Queue[Orders] = asyncio.Queue()
        self.answer: Callable[[Orders], tuple[AnswerItem, ...]] = lambda _: ()
        self.fabric = NatsFabric(
            [place.server.url],
            self.id,
            jwt_source=self._jwt,
            signer=self.key.sign,
            spawn=place.spawn,
            on_error=lambda text: place.complain(f"link of {name}: {text}"),
            options=QUICK,
        )
        self._place = place
        self._server = server
        self._keys: tuple[str, ...] = ()
        self._pass = ""

    async def join(self) -> None:
        await self.enrol()
        await self.fabric.start()
        await self.fabric.subscribe(subjects.orders(self.id), self._received)
        await self.beat()

    async def enrol(self) -> None:
        part = signed_part(self.key.public_key, self.name, JOIN)
        given = await self._server.enrolments.enrol(
            Enrolment(
                public_key=self.key.public_key,
                name=self.name,
                signature=self.key.sign(part),
                token=JOIN,
            )
        )
        self._pass, self._keys = given.jwt, given.order_keys

    async def beat(self, *attempts: tuple[str, int]) -> None:
        await self.fabric.publish(subjects.beat(self.id), self.beat_bytes(*attempts))

    def beat_bytes(self, *attempts: tuple[str, int], **lies: object) -> bytes:
        """A heartbeat; `lies` replace what is true in it."""
        beat = Heartbeat(
            node=self.id,
            session=self.session,
            number=1,
            name=self.name,
            at=0.0,
            facts=FactsMessage(),
            load=LoadMessage(),
            attempts=attempts,
            attempt_count=len(attempts),
        )
        return encode(msgspec.structs.replace(beat, **lies))

    async def tell(self, message: AttemptSnapshot, *, id: str = "") -> None:
        await self.fabric.store(subjects.snapshots(self.id), encode(message), message_id=id)

    async def _jwt(self) -> str:
        return self._pass

    def _received(self, message: Message) -> None:
        sealed = open_envelope(
            message.data, to=self.id, session=self.session, verify=lambda _data, _signature: True
        )
        orders: Orders = decode(sealed.body, Orders)
        self.orders.put_nowait(orders)
        items = self.answer(orders)
        if items:
            answers = Answers(node=self.id, session=self.session, items=items)
            self._place.spawn(self._say(message.reply, encode(answers)), "answer")

    async def _say(self, reply: str, data: bytes) -> None:
        with contextlib.suppress(Unavailable):  # its link was stopped: nobody waits for it
            await self.fabric.publish(reply, data)


async def heard_of(node: HandNode, server: Server) -> None:
    """Beat until a server knows of the session: the first beat may have come before it knew the
    node. One that has it from the record emits no event."""
    async with asyncio.timeout(DEADLINE_S):
        while (node.id, node.session) not in {(n.id, n.session) for n in server.fleet.every()}:
            await node.beat()
            await Poke().wait(0.1)


@contextlib.asynccontextmanager
async def with_node(
    place: Harbour, name: str, answer: Callable[[Orders], tuple[AnswerItem, ...]]
) -> AsyncIterator[tuple[Server, Ears, HandNode]]:
    """A server that has heard of one node, which answers so."""
    async with serving(place) as (server, ears):
        node = HandNode(place, server, name)
        node.answer = answer
        await node.join()
        await ears.until(NodeSession)
        yield server, ears, node
        await node.fabric.stop()


@contextlib.asynccontextmanager
async def serving(
    place: Harbour,
    name: str = "server",
    *,
    clock: Clock | None = None,
    keys: str = "authority",
    ingest: str = "",
) -> AsyncIterator[tuple[Server, Ears]]:
    """A server on the fabric of a harbour; all servers of one harbour share its database. `keys`
    is the directory of its keys there."""
    data = place.root / name
    data.mkdir(exist_ok=True)
    (data / "tokens").write_text(JOIN + "\n")
    ears = Ears()
    telemetry = Telemetry()
    telemetry.subscribe(ears.hear)
    settings = ServerSettings(
        data=str(data),
        fabric_url=place.server.url,
        keys=str(place.root / keys),
        archive=str(place.root / "archive"),
        ingest=ingest,
    )

    def opened(
        settings: ServerSettings, services: Services, telemetry: Telemetry, clock: Clock
    ) -> Parts:
        parts = open_parts(settings, services, telemetry, clock)
        shared = open_database(Secret(""), place.root / "shared.sqlite3")
        return msgspec.structs.replace(parts, database=shared)

    server = Server(settings, telemetry=telemetry, clock=clock or SystemClock(), opened=opened)
    try:
        await server.start()
        yield server, ears
    finally:
        await server.stop()


async def order(server: Server, target: str, command: str = "true") -> str:
    """A run; its only attempt's id is the run's with `-0-1`."""
    run = await server.runs.create(
        NewRun(target=target, order=Order(argv=("/bin/sh", "-c", command)), created_by="test")
    )
    return run.id


def snapshot(attempt: str, revision: int, phase: str, **more: object) -> AttemptSnapshot:
    """What a node says of an attempt; `more` are further fields."""
    base = AttemptSnapshot(attempt=attempt, revision=revision, phase=phase, accepted_at=1.0)
    return msgspec.structs.replace(base, **more)


def accepting(orders: Orders) -> tuple[AttemptSnapshot, ...]:
    """The answers of a node that accepts everything."""
    return tuple(snapshot(item.attempt, 1, "accepted") for item in orders.items)
