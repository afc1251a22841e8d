"""Lease rows: every change is guarded by what its writer has seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from quarterdeck.core.lease import Lease
from quarterdeck.store import lease as store
from quarterdeck.store.base import Database

pytestmark = pytest.mark.anyio


async def taken(database: Database, holder: str, seen: Lease | None = None) -> Lease | None:
    return await database.write(partial(store.take, duty="due", holder=holder, seen=seen))


async def test_of_two_servers_that_take_a_new_duty_one_gets_it(database: Database) -> None:
    first = Lease(duty="due", holder="a", term=1, beat=0)
    assert await taken(database, "a") == first
    assert await taken(database, "b") is None
    assert await database.read(store.every) == [first]


async def test_each_take_over_is_a_new_term_and_ends_what_the_old_holder_could_do(
    database: Database,
) -> None:
    old = await taken(database, "a")
    assert old is not None
    new = await taken(database, "b", old)
    assert new == Lease(duty="due", holder="b", term=2, beat=0)
    assert await database.write(partial(store.extend, lease=old)) is None
    assert await taken(database, "c", old) is None, "it had seen the row before it moved"
    assert await database.read(store.every) == [new]


async def test_an_extension_is_a_beat_that_others_see(database: Database) -> None:
    lease = await taken(database, "a")
    assert lease is not None
    longer = await database.write(partial(store.extend, lease=lease))
    assert longer == Lease(duty="due", holder="a", term=1, beat=1)
    assert await taken(database, "b", lease) is None


async def test_a_lease_given_back_is_free_and_a_late_goodbye_changes_nothing(
    database: Database,
) -> None:
    lease = await taken(database, "a")
    assert lease is not None
    await database.write(partial(store.extend, lease=lease))
    await database.write(partial(store.give_back, holder="a"))
    (free,) = await database.read(store.every)
    assert (free.holder, free.term) == ("", 1)
    again = await taken(database, "b", free)
    await database.write(partial(store.give_back, holder="a"))
    assert await database.read(store.every) == [again]


async def test_only_a_row_that_nobody_moved_is_forgotten(database: Database) -> None:
    lease = await taken(database, "a")
    assert lease is not None
    longer = await database.write(partial(store.extend, lease=lease))
    await database.write(partial(store.forget, lease=lease))
    assert await database.read(store.every) == [longer]
    assert longer is not None
    await database.write(partial(store.forget, lease=longer))
    assert await database.read(store.every) == []


async def test_servers_of_one_database_server_share_its_clock(database: Database) -> None:
    now = datetime.now(UTC)
    told = await database.read(store.shared_time)
    if told is None:
        assert "sqlite" in type(database).__name__.lower(), "only a file has no clock"
    else:
        assert abs(told - now) < timedelta(minutes=1) and told.tzinfo is UTC
