"""Claims to locks on every database: what a step decides is what is there; two writers meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from quarterdeck.control.step import write_guarded
from quarterdeck.core.lock import (
    Asked,
    Claim,
    Event,
    FellSilent,
    Glance,
    Lock,
    Released,
    Who,
    find,
    glance,
    standing,
    step,
)
from quarterdeck.errors import Conflict
from quarterdeck.store import lock as store
from quarterdeck.store.base import Database, StaleWrite, Tx
from tests.contracts.backends import BACKENDS

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
OF_A = {"namespace": "default", "name": "db", "id": "a", "by": "token"}
WHO = Who(host="web-1", pid=7, user="anna", label="nächtlich")


@pytest.fixture
async def second(
    database: Database, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Database]:
    """Another server's way to the same database."""
    made = BACKENDS[request.node.callspec.params["database"]](tmp_path)
    await made.start()
    yield made
    await made.stop()


def asked(id: str, of: int = 1) -> Asked:
    return Asked(claim=Claim(id=id, slots=of, who=WHO, by="token", asked_at=NOW))


async def changed(database: Database, event: Event, name: str = "db") -> Lock:
    def write(tx: Tx) -> Lock:
        before = store.load(tx, "default", name)
        after = step(before, event, NOW)
        store.save(tx, before, after)
        return store.load(tx, "default", name)

    return await write_guarded(database, write)


async def glances(database: Database, namespace: str = "default") -> list[Glance]:
    return await database.read(lambda tx: store.glances(tx, namespace, None, holders=9, waiters=9))


async def test_what_was_written_is_read_again(database: Database) -> None:
    lock = await changed(database, asked("a"))
    lock = await changed(database, asked("b", 3))
    assert [(one.id, one.holding, one.slots, one.who) for one in lock.claims] == [
        ("a", True, 1, WHO),
        ("b", False, 3, WHO),
    ]
    assert lock.claims[0].held_at == NOW and lock.claims[1].held_at is None
    (seen,) = await glances(database)
    assert seen == glance(lock, holders=9, waiters=9) and seen.slots == 1
    assert await glances(database, "other") == []


async def test_the_row_of_a_lock_goes_with_its_last_claim(database: Database) -> None:
    await changed(database, asked("a"))
    await changed(database, asked("x"), "other")
    assert (await changed(database, Released(id="a"))).version == 0
    (left,) = await glances(database)
    assert left.name == "other" and [one.id for one in left.holders] == ["x"]


async def test_the_id_of_a_claim_to_another_lock_is_refused(database: Database) -> None:
    await changed(database, asked("a"))
    with pytest.raises(Conflict, match="another lock"):
        await changed(database, asked("a"), "other")
    (left,) = await glances(database)
    assert left.name == "db"


async def test_a_beat_counts_and_saves_a_claim_from_who_saw_the_one_before(
    database: Database,
) -> None:
    await changed(database, asked("a"))
    assert await database.write(lambda tx: store.beat(tx, **OF_A))
    assert await database.read(store.beats) == [("default", "db", "a", 1)]
    assert find(await changed(database, FellSilent(id="a", beat=0)), "a") is not None
    assert (await changed(database, FellSilent(id="a", beat=1))).claims == ()
    assert not await database.write(lambda tx: store.beat(tx, **OF_A))


@pytest.mark.parametrize("part", OF_A)
async def test_a_beat_of_another_lock_namespace_or_token_is_none(
    database: Database, part: str
) -> None:
    await changed(database, asked("a"))
    assert not await database.write(lambda tx: store.beat(tx, **{**OF_A, part: "other"}))
    assert await database.read(store.beats) == [("default", "db", "a", 0)]


async def test_a_glance_and_a_standing_say_what_the_whole_lock_would(database: Database) -> None:
    for id, of in (("a", 3), ("b", 2), ("c", 1), ("d", 5), ("e", 5)):
        lock = await changed(database, asked(id, of))
    await changed(database, asked("x"), "another")
    for few in (1, 9):
        found = await database.read(
            partial(store.glances, namespace="default", name="db", holders=few, waiters=few)
        )
        assert found == [glance(lock, holders=few, waiters=few)]
    another, db = await glances(database)
    assert (another.name, db.name, db.holding, db.waiting) == ("another", "db", 2, 3)
    for id in ("a", "b", "c", "d", "e", "x"):
        place = partial(store.standing, namespace="default", name="db", id=id)
        assert await database.read(place) == standing(lock, id)


async def test_a_step_from_an_old_picture_is_refused(database: Database) -> None:
    old = await changed(database, asked("a"))
    await changed(database, asked("b"))
    late = step(old, asked("c"), NOW)
    with pytest.raises(StaleWrite):
        await database.write(partial(store.save, before=old, after=late))


async def test_of_many_that_ask_through_two_servers_at_once_one_holds_and_all_have_a_place(
    database: Database, second: Database
) -> None:
    both = (database, second)
    await asyncio.gather(*(changed(both[n % 2], asked(f"c{n}", 2)) for n in range(12)))
    lock = await database.read(partial(store.load, namespace="default", name="db"))
    assert [one.ticket for one in lock.claims] == list(range(1, 13))
    assert len(lock.holders) == 2
    for _ in range(6):
        first, other = lock.holders
        await asyncio.gather(
            changed(database, Released(id=first.id)), changed(second, Released(id=other.id))
        )
        lock = await database.read(partial(store.load, namespace="default", name="db"))
        assert len(lock.holders) == min(2, len(lock.claims))
    assert lock.claims == ()
