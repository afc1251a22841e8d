"""Writing to every store: units stand alone, groups commit together, start and stop are patient."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError

from quarterdeck.errors import Conflict, QuarterdeckError, Unavailable
from quarterdeck.store import migrate
from quarterdeck.store.base import Database, Tx
from quarterdeck.store.group import GroupedDatabase
from quarterdeck.store.sqlite import SqliteDatabase
from quarterdeck.store.tables import orders, rejected, runs
from tests.contracts.backends import BACKENDS

pytestmark = pytest.mark.anyio

DEADLINE_S = 30.0


def put(word: str) -> Callable[[Tx], str]:
    """A unit that writes one row and gives back its word."""

    def unit(tx: Tx) -> str:
        tx.execute(insert(orders).values(hash=word, data=b"x"))
        return word

    return unit


def put_and_fail(word: str, error: Exception) -> Callable[[Tx], str]:
    def unit(tx: Tx) -> str:
        put(word)(tx)
        raise error

    return unit


def words(tx: Tx) -> set[str]:
    return set(tx.scalars(select(orders.c.hash)))


async def held_back(
    database: Database, *units: Callable[[Tx], str], bulk: bool = False
) -> list[str | BaseException]:
    """Units that wait for the writer together, so that they come into one group."""
    held, entered = threading.Event(), threading.Event()

    def hold(tx: Tx) -> str:
        entered.set()
        assert held.wait(DEADLINE_S)
        return ""

    async def release() -> str:
        assert await asyncio.to_thread(entered.wait, DEADLINE_S)
        waiting = asyncio.gather(
            *(database.write(unit, bulk=bulk) for unit in units), return_exceptions=True
        )
        for _ in range(3):
            await asyncio.sleep(0)
        held.set()
        results.extend(await waiting)
        return ""

    results: list[str | BaseException] = []
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(database.write(hold), release())
    return results


async def test_two_hundred_writes_at_once_are_all_answered_and_all_there(
    database: Database,
) -> None:
    wanted = [f"w{number}" for number in range(200)]
    async with asyncio.timeout(DEADLINE_S):
        given = await asyncio.gather(
            *(database.write(put(word), bulk=word.endswith("7")) for word in wanted)
        )
    assert given == wanted
    assert await database.read(words) == set(wanted)


async def test_a_unit_that_raises_leaves_nothing_and_its_error_comes_back(
    database: Database,
) -> None:
    error = Conflict("x", "No.")
    with pytest.raises(Conflict) as caught:
        await database.write(put_and_fail("bad", error))
    assert caught.value is error
    assert await database.read(words) == set()


async def test_a_failing_unit_does_not_harm_the_others_of_its_group(database: Database) -> None:
    await database.write(put("known"))
    given = await held_back(
        database,
        put("one"),
        put_and_fail("two", ValueError("no")),
        put("known"),
        put("three"),
    )
    assert given[0] == "one" and given[3] == "three"
    assert isinstance(given[1], ValueError) and isinstance(given[2], IntegrityError)
    assert await database.read(words) == {"known", "one", "three"}


async def test_a_unit_with_a_mistake_in_its_sql_does_not_harm_the_others(
    database: Database,
) -> None:
    def wrong(tx: Tx) -> str:
        tx.execute(text("SELECT * FROM no_such_table"))
        return ""

    given = await held_back(database, put("one"), wrong, put("two"))
    assert given[0] == "one" and given[2] == "two"
    assert await database.read(words) == {"one", "two"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_unit_that_loses_its_connection_does_not_end_the_writer(
    database: Database,
) -> None:
    def unit(tx: Tx) -> str:
        tx.invalidate()
        return ""

    with contextlib.suppress(Unavailable):
        async with asyncio.timeout(2):
            await database.write(unit)
    async with asyncio.timeout(2):
        assert await database.write(put("after")) == "after"


async def test_units_see_what_units_before_them_in_the_group_wrote(database: Database) -> None:
    def count(tx: Tx) -> str:
        return str(tx.scalar(select(func.count()).select_from(orders)))

    given = await held_back(database, put("a"), count, put("b"), count)
    assert given == ["a", "1", "b", "2"]


async def test_a_writer_whose_caller_gave_up_still_writes_and_harms_nobody(
    database: Database,
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await database.write(put("given up"))
    assert await database.write(put("next")) == "next"
    assert "next" in await database.read(words)


async def test_a_read_sees_only_what_is_committed(database: Database) -> None:
    held, entered = threading.Event(), threading.Event()

    def hold(tx: Tx) -> str:
        put("slow")(tx)
        entered.set()
        assert held.wait(DEADLINE_S)
        return "slow"

    async def look() -> set[str]:
        try:
            assert await asyncio.to_thread(entered.wait, DEADLINE_S)
            return await database.read(words)
        finally:
            held.set()

    async with asyncio.timeout(DEADLINE_S):
        _, during = await asyncio.gather(database.write(hold), look())
    assert during == set()
    assert await database.read(words) == {"slow"}


async def test_an_error_of_a_read_comes_back(database: Database) -> None:
    def unit(tx: Tx) -> None:
        raise Conflict("x", "No.")

    with pytest.raises(Conflict):
        await database.read(unit)


async def test_a_row_that_refers_to_nothing_is_refused(database: Database) -> None:
    def unit(tx: Tx) -> None:
        row = {"id": "r", "namespace": "d", "origin": "run", "title": "", "target": "a"}
        more = {"order_hash": "none", "created_at": 1, "created_by": "t", "state": "pending"}
        rest = {"stop_asked": 0, "counts": b"", "version": 1}
        tx.execute(insert(runs).values(**row, **more, **rest))

    with pytest.raises(IntegrityError):
        await database.write(unit)


async def test_start_may_be_called_twice(database: Database) -> None:
    await database.start()
    assert await database.write(put("a")) == "a"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_stop_finishes_what_was_accepted_and_may_be_called_twice(
    backend: str, tmp_path: Path
) -> None:
    first = BACKENDS[backend](tmp_path)
    await first.start()
    writes = asyncio.gather(*(first.write(put(f"w{number}")) for number in range(100)))
    await asyncio.sleep(0)
    await first.stop()
    await first.stop()
    assert len(await writes) == 100
    with pytest.raises(Unavailable, match="stopping"):
        await first.write(put("late"))
    again = BACKENDS[backend](tmp_path)
    await again.start()
    assert len(await again.read(words)) == 100
    await again.stop()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_read_after_stop_is_unavailable(backend: str, tmp_path: Path) -> None:
    made = BACKENDS[backend](tmp_path)
    await made.start()
    await made.stop()
    with pytest.raises(QuarterdeckError):
        await made.read(words)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_stop_without_a_start_is_fine(backend: str, tmp_path: Path) -> None:
    await BACKENDS[backend](tmp_path).stop()
    assert not list(tmp_path.iterdir())


async def test_a_database_of_a_newer_version_is_left_alone(database: GroupedDatabase) -> None:
    def renumber(tx: Tx) -> None:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    await database.write(renumber)
    with pytest.raises(Conflict, match="newer quarterdeck"):
        await asyncio.to_thread(migrate.upgrade, database._writer)


async def test_sqlite_is_set_up_to_survive_the_loss_of_power(tmp_path: Path) -> None:
    made = SqliteDatabase(tmp_path / "x.db")
    await made.start()

    def pragmas(tx: Tx) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [tx.scalar(text(f"PRAGMA {name}")) for name in names]

    try:
        assert await made.write(pragmas) == ["wal", 2, 1]
    finally:
        await made.stop()


async def test_kept_rejects_have_their_own_numbers(database: Database) -> None:
    def unit(tx: Tx) -> list[int]:
        for subject in ("a", "b"):
            tx.execute(insert(rejected).values(subject=subject, data=b"", error="e", at=1))
        return list(tx.scalars(select(rejected.c.id).order_by(rejected.c.id)))

    assert await database.write(unit) == [1, 2]
