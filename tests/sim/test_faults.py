"""Each fault of the memory fabric does what it says, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from quarterdeck.errors import Denied, Unavailable
from quarterdeck.fabric.base import Kept, Limits, Message, Refused, Stored
from quarterdeck.fabric.memory import Chance, MemoryCore, MemoryFabric
from quarterdeck.service import Services
from tests.sim.clock import SimClock, pause, run

NOTICED_S = 20.0 * 4
"""Silence is noticed within so many looks of the default options."""


class Sea:
    """A core, a server, node n1, and what has been complained about."""

    def __init__(self) -> None:
        self.core = MemoryCore(random.Random(5).random)
        self.services = Services(lambda *_: None, SimClock())
        self.errors: list[str] = []
        self.server = self.link("s1", "server")
        self.node = self.link("n1", "node")
        self.beats: list[Message] = []
        self.ups: list[float] = []

    def link(self, who: str, role: str) -> MemoryFabric:
        return MemoryFabric(
            self.core, who, role, spawn=self.services.spawn, on_error=self.errors.append
        )

    async def open(self) -> None:
        await self.server.start()
        await self.server.ensure_streams(Limits())
        await self.node.start()
        await self.server.subscribe("hb.*", self.beats.append)
        loop = asyncio.get_running_loop()
        self.node.on_connect(lambda: self.ups.append(loop.time()))

    async def close(self) -> None:
        self.core.heal("n1")
        for link in (self.node, self.server):
            await link.stop()
        await self.services.stop()
        self.core.crash()

    async def beat(self, count: int) -> list[int]:
        """Publish so many numbers; those that were heard, in the order of hearing."""
        before = len(self.beats)
        for number in range(count):
            await self.node.publish("hb.n1", str(number).encode())
        await pause(30)
        return [int(message.data) for message in self.beats[before:]]

    async def kept(self) -> list[Kept]:
        return [one async for one in self.server.replay("OUT", "out.>")]


def at_sea(test: Callable[[Sea], Awaitable[None]]) -> Callable[[], None]:
    """A test in virtual time, on an open sea."""

    async def main() -> None:
        sea = Sea()
        await sea.open()
        try:
            async with asyncio.timeout(3600):
                await test(sea)
        finally:
            await sea.close()

    def wrapped() -> None:
        run(main, seed=1)

    wrapped.__name__ = test.__name__
    return wrapped


def soon(sea: Sea, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return sea.services.spawn(work, "soon")


@at_sea
async def test_without_faults_all_is_heard_once_and_in_order(sea: Sea) -> None:
    assert await sea.beat(500) == list(range(500))


@at_sea
async def test_some_messages_are_lost_doubled_or_overtaken(sea: Sea) -> None:
    sea.core.faults.core.lost = 0.2
    heard = await sea.beat(500)
    assert 300 < len(heard) < 480
    assert heard == sorted(set(heard))
    sea.core.faults.core.lost = 0.0
    sea.core.faults.core.doubled = 0.2
    heard = await sea.beat(500)
    assert 520 < len(heard) < 700
    assert set(heard) == set(range(500))
    sea.core.faults.core.doubled = 0.0
    sea.core.faults.core.delayed = 0.2
    heard = await sea.beat(500)
    assert sorted(heard) == list(range(500))
    assert heard != sorted(heard)


@at_sea
async def test_a_lost_store_or_answer_is_sent_again_and_an_id_keeps_it_single(sea: Sea) -> None:
    async def store_all(ids: bool) -> int:
        before = sea.core.held("OUT")
        await asyncio.gather(
            *(
                sea.node.store("out.n1.r.1", b"", message_id=f"{before}-{n}" if ids else "")
                for n in range(200)
            )
        )
        return sea.core.held("OUT") - before

    sea.core.faults.stores.lost = 0.3
    assert await store_all(ids=False) == 200
    sea.core.faults.stores.lost = 0.0
    sea.core.faults.acks.lost = 0.3
    assert await store_all(ids=False) > 200
    assert await store_all(ids=True) == 200


@at_sea
async def test_a_lost_acknowledgement_makes_a_fact_come_again(sea: Sea) -> None:
    sea.core.faults.acks.lost = 1.0
    stored = sea.node.store("ev.n1.a", b"x", message_id="x")
    deliveries = sea.server.consume("EV", "ingest", batch=5)
    for _ in range(3):
        (delivery,) = await anext(deliveries)
        delivery.ack()
        await pause(1)
    assert not stored.done()
    assert sea.core.held("EV") == 1
    sea.core.faults.acks.lost = 0.0
    (delivery,) = await anext(deliveries)
    delivery.ack()
    assert await stored == Stored(1)
    await pause(1)
    assert sea.core.held("EV") == 0
    await deliveries.aclose()  # type: ignore[attr-defined]


@at_sea
async def test_a_short_partition_delays_and_loses_nothing(sea: Sea) -> None:
    sea.core.partition("n1")
    beats = soon(sea, sea.beat(20))
    stored = sea.node.store("out.n1.r.1", b"x")
    await pause(25)
    assert sea.node.connected
    assert sea.beats == []
    assert not stored.done()
    sea.core.heal("n1")
    assert await beats == list(range(20))
    assert await stored == Stored(1)
    assert sea.ups == []


@at_sea
async def test_a_long_partition_is_noticed_by_each_side_in_its_own_time(sea: Sea) -> None:
    await sea.node.subscribe("cmd.n1.>", lambda _: None)
    sea.core.partition("n1")
    await sea.node.publish("hb.n1", b"never heard")
    stored = sea.node.store("out.n1.r.1", b"x")
    await pause(NOTICED_S)
    assert not sea.node.connected
    with pytest.raises(Unavailable) as unheard:  # the core takes it for present still
        await sea.server.request("cmd.n1.x", b"", timeout_s=3)
    assert unheard.value.code == "timeout"
    await pause(300)
    with pytest.raises(Unavailable) as absent:
        await sea.server.request("cmd.n1.x", b"", timeout_s=3)
    assert absent.value.code == "no_responders"
    sea.core.heal("n1")
    assert await stored == Stored(1)
    assert sea.node.connected
    assert sea.beats == []
    assert len(sea.ups) == 1


@at_sea
async def test_a_cut_is_noticed_at_once_and_mended(sea: Sea) -> None:
    sea.core.cut("n1")
    await pause(0)
    assert not sea.node.connected
    await pause(5)
    assert sea.node.connected
    assert await sea.beat(3) == [0, 1, 2]


@at_sea
async def test_a_crash_loses_what_is_under_way_and_keeps_the_streams(sea: Sea) -> None:
    await sea.node.store("out.n1.r.1", b"kept")
    sea.core.faults.core = Chance(delayed=1.0, delay_s=60)
    for _ in range(20):
        await sea.node.publish("hb.n1", b"on its way")
    await pause(0.1)
    heard = len(sea.beats)
    sea.core.crash()
    late = sea.node.store("out.n1.r.1", b"late")
    await pause(100)
    assert len(sea.beats) == heard
    assert not sea.node.connected
    with pytest.raises(Unavailable):
        await sea.node.publish("hb.n1", b"")
    sea.core.restart()
    assert await late == Stored(2)
    await pause(10)
    assert [one.data for one in await sea.kept()] == [b"kept", b"late"]


@at_sea
async def test_a_full_stream_refuses_until_it_is_emptied(sea: Sea) -> None:
    sea.core.fill("OUT")
    assert await sea.node.store("out.n1.r.1", b"") == Refused(10077, "maximum bytes exceeded")
    assert isinstance(await sea.node.store("ev.n1.a", b""), Stored)
    sea.core.empty("OUT")
    assert await sea.node.store("out.n1.r.1", b"") == Stored(1)


@at_sea
async def test_what_a_crashed_principal_had_pending_vanishes(sea: Sea) -> None:
    sea.core.faults.latency_s = 1.0
    await sea.node.publish("hb.n1", b"")
    stored = sea.node.store("out.n1.r.1", b"")
    await pause(0.5)
    sea.node.crash()
    await pause(60)
    assert stored.cancelled()
    assert not sea.node.connected
    assert sea.beats == []
    assert sea.core.held("OUT") == 0
    again = sea.link("n1", "node")
    await again.start()
    assert isinstance(await again.store("out.n1.r.1", b""), Stored)
    await again.stop()


@at_sea
async def test_a_revoked_principal_stays_out_until_it_is_admitted(sea: Sea) -> None:
    sea.core.revoke("n1")
    await pause(10)
    assert not sea.node.connected
    assert any("does not admit 'n1'" in text for text in sea.errors)
    with pytest.raises(Denied):
        await sea.link("n1", "node").start()
    sea.core.admit("n1")
    await pause(40)
    assert sea.node.connected


@at_sea
async def test_publishers_wait_in_a_black_hole_and_are_told(sea: Sea) -> None:
    sea.core.partition("n1")

    async def fill() -> None:
        while True:
            await sea.node.publish("hb.n1", b"x" * (64 << 10))

    with pytest.raises(Unavailable) as failure:
        await fill()
    assert failure.value.code == "disconnected"
