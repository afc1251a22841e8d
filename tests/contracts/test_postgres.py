"""PostgreSQL shared by several servers, restarted, cut off, refusing: nothing lost or doubled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select, update

from quarterdeck.errors import Unavailable
from quarterdeck.store import node as node_store
from quarterdeck.store import run as store
from quarterdeck.store import step as step_store
from quarterdeck.store.base import Database, StaleWrite, Tx
from quarterdeck.store.postgres import PostgresDatabase
from quarterdeck.store.tables import rejected, runs
from tests.contracts.postgres_server import DURABLE, SECRET, PostgresServer, needed, serving
from tests.contracts.postgres_units import count_up, note, noted, opened
from tests.contracts.test_store import NOW, created, new_run

pytestmark = pytest.mark.anyio

DEADLINE_S = 60.0


# ---- several servers


async def test_databases_that_start_together_on_an_empty_one_all_come_up(
    server: PostgresServer,
) -> None:
    url = server.fresh()
    made = [PostgresDatabase(url) for _ in range(4)]
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(database.start() for database in made))
            await asyncio.gather(
                *(database.write(note(f"w{at}")) for at, database in enumerate(made))
            )
            assert sorted(await made[0].read(noted)) == ["w0", "w1", "w2", "w3"]
    finally:
        for database in made:
            await database.stop()


# Opens the database of an address, and says so.
STARTER = """
    import asyncio, sys
    from quarterdeck.settings import Secret
    from quarterdeck.store.database import open_database

    async def main():
        database = open_database(Secret(sys.argv[1]), None)
        await database.start()
        await database.stop()

    asyncio.run(main())
"""


def test_processes_that_start_together_on_an_empty_one_all_come_up(
    server: PostgresServer,
) -> None:
    words = [sys.executable, "-c", textwrap.dedent(STARTER), server.fresh()]
    started = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait(DEADLINE_S) for process in started] == [0, 0]


async def test_units_of_several_servers_on_one_row_lose_nothing(server: PostgresServer) -> None:
    url = server.fresh()
    async with opened(url, url, url) as made:
        await made[0].write(note("counter"))

        async def many(database: Database) -> list[int]:
            return [await database.write(count_up) for _ in range(40)]

        given = await asyncio.gather(*(many(database) for database in made))
        assert sorted(number for numbers in given for number in numbers) == list(range(1, 121))


async def test_an_unguarded_decision_of_two_servers_at_once_is_made_again(
    server: PostgresServer,
) -> None:
    url = server.fresh()
    barrier = threading.Barrier(2, timeout=DEADLINE_S)
    tries: list[str] = []

    def unit(name: str) -> Callable[[Tx], int]:
        def both_have_read(tx: Tx) -> int:
            before = tx.scalar(select(rejected.c.at)) or 0
            tries.append(name)
            if tries.count(name) == 1:
                barrier.wait()
            tx.execute(update(rejected).values(at=before + 1))
            return before + 1

        return both_have_read

    async with opened(url, url) as (one, two):
        await one.write(note("counter"))
        given = await asyncio.gather(one.write(unit("one")), two.write(unit("two")))
    assert sorted(given) == [1, 2] and len(tries) == 3


async def test_servers_that_lock_rows_crosswise_both_come_through(server: PostgresServer) -> None:
    url = server.fresh()
    barrier = threading.Barrier(2, timeout=DEADLINE_S)
    tries: list[str] = []

    def unit(first: str, second: str) -> Callable[[Tx], None]:
        def crosswise(tx: Tx) -> None:
            tries.append(first)
            for word in (first, second):
                tx.execute(
                    update(rejected).where(rejected.c.subject == word).values(at=rejected.c.at + 1)
                )
                if word == first and tries.count(first) == 1:
                    barrier.wait()

        return crosswise

    async with opened(url, url) as (one, two):
        await one.write(note("a"))
        await one.write(note("b"))
        await asyncio.gather(one.write(unit("a", "b")), two.write(unit("b", "a")))
        assert await one.read(lambda tx: list(tx.scalars(select(rejected.c.at)))) == [2, 2]
    assert len(tries) >= 3


async def test_one_idempotency_key_at_two_servers_at_once_makes_one_run(
    server: PostgresServer,
) -> None:
    url = server.fresh()
    barrier = threading.Barrier(2, timeout=DEADLINE_S)
    tries: list[int] = []

    def unit(number: int) -> Callable[[Tx], str]:
        def create(tx: Tx) -> str:
            known = store.by_key(tx, "key")
            tries.append(number)
            if tries.count(number) == 1:
                barrier.wait()
            if known is not None:
                return known
            rows = new_run(number)
            store.create(tx, *rows, "key")
            return rows[0].id

        return create

    async with opened(url, url) as (one, two):
        first, second = await asyncio.gather(one.write(unit(1)), two.write(unit(2)))
        assert first == second
        assert await one.read(lambda tx: tx.scalar(select(func.count()).select_from(runs))) == 1


async def test_a_version_guard_holds_between_servers(server: PostgresServer) -> None:
    url = server.fresh()
    async with opened(url, url) as (one, two):
        run, _, _ = await created(one)
        await one.write(lambda tx: step_store.stepped(tx, run, [], [], more=False))
        with pytest.raises(StaleWrite):
            await two.write(lambda tx: step_store.stepped(tx, run, [], [], more=False))


async def test_a_read_is_one_snapshot_and_can_not_write(server: PostgresServer) -> None:
    held, entered = threading.Event(), threading.Event()

    def twice(tx: Tx) -> tuple[list[str], list[str]]:
        before = noted(tx)
        entered.set()
        assert held.wait(DEADLINE_S)
        return before, noted(tx)

    async def write() -> None:
        assert await asyncio.to_thread(entered.wait, DEADLINE_S)
        await made.write(note("meanwhile"))
        held.set()

    async with opened(server.fresh()) as (made,):
        (before, after), _ = await asyncio.gather(made.read(twice), write())
        assert before == after == []
        with pytest.raises(Unavailable):
            await made.read(note("x"))
        assert await made.read(noted) == ["meanwhile"]


async def test_ids_sort_by_age_whatever_the_locale_of_the_database(server: PostgresServer) -> None:
    with server.admin() as admin:
        admin.execute(
            "CREATE DATABASE worded TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        )
    async with opened(server.url("worded")) as (made,):
        for name in ("B", "_", "a"):
            await made.write(
                lambda tx, name=name: node_store.reject(tx, name, b"", "", NOW)  # type: ignore[misc]
            )

        def sorted_there(tx: Tx) -> list[str]:
            return list(tx.scalars(select(rejected.c.subject).order_by(rejected.c.subject)))

        assert await made.read(sorted_there) == ["B", "_", "a"]


# ---- connections that break


def cut_all(server: PostgresServer, url: str) -> int:
    """Ends every connection to the database of an address; how many there were."""
    name = url.rpartition("/")[2]
    query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
    with server.admin() as admin:
        row = admin.execute(query, (name,)).fetchone()
    assert row is not None
    return int(row[0])


async def test_connections_that_were_cut_are_replaced_unnoticed(server: PostgresServer) -> None:
    url = server.fresh()
    async with opened(url) as (made,):
        await made.write(note("before"))
        await asyncio.gather(*(made.read(noted) for _ in range(8)))
        assert await asyncio.to_thread(cut_all, server, url) >= 2
        words = [f"after{number}" for number in range(20)]
        assert await asyncio.gather(*(made.write(note(word)) for word in words)) == words
        seen = await asyncio.gather(*(made.read(noted) for _ in range(8)))
        assert all(found == ["before", *words] for found in seen)


async def test_a_unit_whose_connection_is_cut_before_the_commit_runs_again(
    server: PostgresServer,
) -> None:
    url = server.fresh()
    tries: list[str] = []

    def unit(tx: Tx) -> str:
        note("once")(tx)
        tries.append("try")
        if len(tries) == 1:
            cut_all(server, url)
        return note("twice")(tx)

    async with opened(url) as (made,):
        given = await asyncio.gather(made.write(note("other")), made.write(unit))
        assert list(given) == ["other", "twice"]
        assert await made.read(noted) == ["other", "once", "twice"]
    assert len(tries) == 2


async def test_a_connection_cut_at_the_commit_is_said_and_never_written_twice(
    server: PostgresServer,
) -> None:
    url = server.fresh()

    def unit(tx: Tx) -> str:
        cut_all(server, url)
        return ""

    def last(tx: Tx) -> None:
        """Nothing of the unit asks the server any more: the savepoint's release does."""
        note("doubtful")(tx)

    async with opened(url) as (made,):
        await made.write(last)
        real = made._in_savepoint

        def cut_after(connection: Tx, work: Callable[[Tx], object]) -> tuple[object, None]:
            outcome = real(connection, work)
            cut_all(server, url)
            return outcome[0], None

        made._in_savepoint = cut_after  # type: ignore[method-assign, assignment]
        with pytest.raises(Unavailable, match="not known"):
            await made.write(last)
        made._in_savepoint = real  # type: ignore[method-assign]
        assert await made.write(note("next")) == "next"
        assert await made.read(noted) == ["doubtful", "next"]
        with pytest.raises(Unavailable):
            await made.write(unit)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill, with fsync."""
    needed()
    with serving(DURABLE) as running:
        yield running


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_what_was_answered_is_there_once_after_a_restart_under_load(
    own_server: PostgresServer, end: str
) -> None:
    answered: set[str] = set()
    tried: set[str] = set()
    refused: list[str] = []
    over = asyncio.Event()
    enough = asyncio.Condition()

    async def write(database: Database, name: str) -> None:
        number = 0
        while not over.is_set():
            word = f"{name}-{number}"
            number += 1
            tried.add(word)
            try:
                answered.add(await database.write(note(word), bulk=number % 5 == 0))
            except Unavailable as error:
                refused.append(error.message)
            async with enough:
                enough.notify_all()

    async def until(count: int) -> None:
        async with enough:
            await enough.wait_for(lambda: len(answered) >= count)

    url = own_server.fresh()
    async with opened(url, url) as made:
        async with asyncio.TaskGroup() as group:
            for at in range(12):
                group.create_task(write(made[at % 2], f"{at}"))
            for _ in range(3):
                await until(len(answered) + 200)
                await asyncio.to_thread(getattr(own_server, end))
                await asyncio.to_thread(own_server.start)
            await until(len(answered) + 200)
            over.set()
        found = await made[0].read(noted)
    assert len(found) == len(set(found)), "nothing twice"
    assert answered <= set(found) <= tried
    assert refused, "a server that is away is said"
    assert all(message.endswith((".", "repeat it.")) for message in refused)
    assert not any(SECRET in message for message in refused)
