"""Two servers of one fleet: what one commits the other knows, and each duty has one holder."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from quarterdeck.control.changes import run_topic
from quarterdeck.control.lease import DUTIES, Leases
from quarterdeck.control.main import Server
from quarterdeck.control.principals import TOKENS
from quarterdeck.core.lease import MEMBER, TAKE_AFTER_S
from quarterdeck.core.states import RunState
from quarterdeck.errors import Denied
from quarterdeck.settings import Secret
from quarterdeck.store import lease as lease_store
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Database
from quarterdeck.store.database import open_database
from quarterdeck.store.measured import MeasuredDatabase
from quarterdeck.telemetry import LeaseLost, LeaseTaken, RunEnded, Telemetry
from tests.clocks import HandClock
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import (
    DEADLINE_S,
    Ears,
    HandNode,
    accepting,
    heard_of,
    order,
    serving,
    snapshot,
)

Pair = tuple[tuple[Server, Ears], tuple[Server, Ears]]


@pytest.fixture
async def pair(place: Harbour) -> AsyncIterator[Pair]:
    async with serving(place, "one") as one, serving(place, "two") as two:
        await one[0].leases.round()  # it sees that it is not alone any more
        yield one, two


@pytest.fixture
async def node(place: Harbour, pair: Pair) -> AsyncIterator[HandNode]:
    """A node that was enrolled by the first server and is known to both."""
    made = HandNode(place, pair[0][0], "hand")
    await made.join()
    for server, _ in pair:
        await heard_of(made, server)
    yield made
    await made.fabric.stop()


async def test_a_node_enrolled_at_one_server_is_ordered_by_the_other(
    node: HandNode, pair: Pair
) -> None:
    _, (two, heard) = pair
    node.answer = accepting
    run = await order(two, "hand")
    await node.orders.get()
    await node.tell(snapshot(f"{run}-0-1", 2, "ended", exit_code=0, cached=True))
    with two.changes.watch(run_topic(run)) as poke:
        async with asyncio.timeout(DEADLINE_S):
            while (await two.runs.get(run)).state is not RunState.ENDED:
                await poke.wait(1.0)
    ends = [e for _, ears in pair for e in ears.all(RunEnded)]
    assert [end.run for end in ends] == [run], "whoever took the fact in, it was one of them"
    assert not heard.all(LeaseLost)


@pytest.mark.usefixtures("node")
async def test_a_change_committed_by_one_server_wakes_who_waits_at_the_other(pair: Pair) -> None:
    (one, _), (two, _) = pair
    run = await order(one, "hand")
    with two.changes.watch(run_topic(run)) as poke:
        await one.runs.cancel(run)
        async with asyncio.timeout(DEADLINE_S):
            assert await poke.wait() == {run_topic(run)}


async def test_each_duty_is_held_by_one_server_and_given_back_at_a_stop(place: Harbour) -> None:
    async with contextlib.AsyncExitStack() as later:
        async with serving(place, "one") as (one, _):
            two, heard = await later.enter_async_context(serving(place, "two"))
            await one.leases.round()
            assert all(one.leases.holds(duty) for duty in DUTIES)
            assert not any(two.leases.holds(duty) for duty in DUTIES)
        await two.leases.round()
        assert all(two.leases.holds(duty) for duty in DUTIES)
        terms = {e.duty: e.term for e in heard.all(LeaseTaken) if e.duty in DUTIES}
        assert terms == dict.fromkeys(DUTIES, 2)


async def test_work_of_a_key_belongs_to_one_of_the_live_servers(pair: Pair) -> None:
    (one, _), (two, _) = pair
    keys = [f"key {n}" for n in range(200)]
    homes = [(one.leases.mine(key), two.leases.mine(key)) for key in keys]
    assert set(homes) == {(True, False), (False, True)}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = open_database(Secret(""), tmp_path / "x.sqlite3")
    await made.start()
    yield made
    await made.stop()


def leases(database: Database, clock: HandClock, server: str) -> Leases:
    return Leases(database=database, clock=clock, telemetry=Telemetry(), server=server)


async def test_the_duties_of_a_dead_server_are_taken_over_and_its_keys_move(
    database: Database,
) -> None:
    clock = HandClock()
    dead, living = leases(database, clock, "dead"), leases(database, clock, "living")
    await dead.round()
    await living.round()
    await dead.round()
    assert dead.servers() == living.servers() == ["dead", "living"]
    for _ in range(int(TAKE_AFTER_S) + 1):  # it first has to see the last beat
        clock.at += 1
        await living.round()
    assert not any(dead.holds(duty) for duty in DUTIES), "it counts on nothing it can't extend"
    assert all(living.holds(duty) for duty in DUTIES)
    assert living.servers() == ["living"]
    await dead.round()
    assert not any(dead.holds(duty) for duty in DUTIES), "its beat is of an old term"
    assert dead.holds(MEMBER + "dead") and dead.servers() == ["dead", "living"]


async def test_a_stop_in_the_middle_of_a_round_gives_back_what_the_round_still_wrote(
    database: Database,
) -> None:
    clock, hold = HandClock(), threading.Event()
    measured = MeasuredDatabase(database, clock, lambda *_: None)
    leaving, living = leases(measured, clock, "leaving"), leases(database, clock, "living")
    await leaving.round()
    busy = asyncio.create_task(database.write(lambda _: hold.wait(DEADLINE_S)))
    cut_off = asyncio.create_task(leaving.round())
    async with asyncio.timeout(DEADLINE_S):
        while not measured.waiting:
            await database.read(lease_store.every)
    cut_off.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut_off
    hold.set()
    await busy
    await leaving.give_back()
    await living.round()
    assert all(living.holds(duty) for duty in DUTIES) and living.servers() == ["living"]


async def test_rounds_at_the_same_time_take_nothing_from_one_another(database: Database) -> None:
    one, hold = leases(database, HandClock(), "one"), threading.Event()
    busy = asyncio.create_task(database.write(lambda _: hold.wait(DEADLINE_S)))
    rounds = asyncio.gather(*(one.round() for _ in range(5)))
    for _ in range(5):  # each reads, and is in the queue of the writer if nothing holds it back
        await database.read(lease_store.every)
    hold.set()
    await asyncio.gather(busy, rounds)
    assert all(one.holds(duty) for duty in (MEMBER + "one", *DUTIES))


async def test_a_frozen_server_that_wakes_holds_nothing_before_it_has_asked(
    database: Database,
) -> None:
    clock = HandClock()
    frozen = leases(database, clock, "frozen")
    await frozen.round()
    assert frozen.holds(DUTIES[0]) and frozen.mine("x")
    clock.at += 60
    assert not frozen.holds(DUTIES[0]) and not frozen.mine("x")
    await frozen.round()
    assert frozen.holds(DUTIES[0]) and frozen.mine("x")


async def test_the_row_of_a_server_that_never_came_back_is_forgotten(database: Database) -> None:
    clock = HandClock()
    await leases(database, clock, "dead").round()
    living = leases(database, clock, "living")
    await living.round()
    clock.at += 601
    await living.round()
    rows = await database.read(partial(lease_store.every))
    assert MEMBER + "dead" not in [row.duty for row in rows]


async def test_a_revocation_cuts_the_streams_of_every_server(pair: Pair) -> None:
    (one, _), (two, _) = pair
    root = Principal("root", "api", "*")
    (kept, _), (other, _) = [await one.tokens.create("api", by=root) for _ in range(2)]
    (short, _) = await two.tokens.create("api", by=root, expires_s=1)
    with (
        one.streaming.by(kept.id) as here,
        two.streaming.by(kept.id) as there,
        one.streaming.by(short.id) as expiring,
        two.streaming.by(other.id) as stays,
    ):
        await one.tokens.revoke(kept.id, by=root)
        async with asyncio.timeout(DEADLINE_S):
            for cut in (here, there, expiring):
                await cut.wait()
        assert not stays.is_set()


async def test_a_revoked_token_is_refused_here_at_once_and_elsewhere_once_it_is_told(
    pair: Pair,
) -> None:
    (one, _), (two, _) = pair
    root = Principal("root", "api", "*")
    kept, text = await one.tokens.create("api", by=root)
    for server in (one, two):
        assert (await server.principal(text)).id == kept.id
    with two.changes.watch(TOKENS) as poke:
        await one.tokens.revoke(kept.id, by=root)
        with pytest.raises(Denied, match="was revoked"):
            await one.principal(text)
        async with asyncio.timeout(DEADLINE_S):
            await poke.wait()
    with pytest.raises(Denied, match="was revoked"):
        await two.principal(text)
