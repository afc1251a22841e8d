"""A thousand wait for one lock: the cost of a beat does not grow with them, and the queue moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from quarterdeck.control import lock
from quarterdeck.control.changes import Changes
from quarterdeck.control.lock import Found, Locks
from quarterdeck.core.lock import NEAR, Asked, Claim, Lock, Who, step
from quarterdeck.service import Services, SystemClock
from quarterdeck.store import lock as store
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import Telemetry

pytestmark = pytest.mark.anyio
T = TypeVar("T")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
WHO = Who(host="web-1", pid=7, user="anna")
BY = Principal("token", "api", "default")
CROWD = 1000
IDS = [f"claim{number:015}" for number in range(CROWD + 1)]
DEADLINE_S = 60.0


class Counting:
    """A transaction that counts its statements, and the rows they bring."""

    def __init__(self, tx: Tx, cost: list[int]) -> None:
        self._tx = tx
        self._cost = cost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def execute(self, *asked: Any) -> Any:
        result = self._tx.execute(*asked)
        self._cost[0] += 1
        if not result.returns_rows:
            return result
        frozen = result.freeze()
        self._cost[1] += len(frozen.data)
        return frozen()


class CountedDatabase:
    """The same database; `written` and `read` are (statements, rows) since the start."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._more = asyncio.Event()
        self.written = [0, 0]
        self.seen = [0, 0]

    async def start(self) -> None:
        await self._database.start()

    async def stop(self) -> None:
        await self._database.stop()

    async def write(self, unit: Callable[[Any], T], *, bulk: bool = False) -> T:
        return await self._database.write(lambda tx: unit(Counting(tx, self.written)), bulk=bulk)

    async def read(self, unit: Callable[[Any], T]) -> T:
        found = await self._database.read(lambda tx: unit(Counting(tx, self.seen)))
        self._more.set()
        return found

    async def until_read(self, statements: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.seen[0] < statements:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
async def counted(database: Database) -> CountedDatabase:
    """One that holds lock db, and a thousand behind it."""

    def write(tx: Tx) -> None:
        before = lock = Lock(namespace="default", name="db")
        for id in IDS:
            lock = step(
                lock, Asked(claim=Claim(id=id, slots=1, who=WHO, by="token", asked_at=NOW)), NOW
            )
        store.save(tx, before, lock)

    await database.write(write)
    return CountedDatabase(database)


@pytest.fixture
async def locks(counted: CountedDatabase) -> Locks:
    return Locks(
        database=counted,
        clock=SystemClock(),
        telemetry=Telemetry(),
        changes=Changes("one", lambda: True),
        draining=asyncio.Event(),
    )


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    made = Services(lambda *_: None, SystemClock())
    yield made
    await made.stop()


async def renewed(locks: Locks, id: str, *, seen: str = "", wait_s: float = 0.0) -> Found:
    return await locks.renewed("db", id, wait_s=wait_s, seen=seen, by=BY)


async def test_a_renewal_among_a_thousand_writes_one_row_and_reads_a_few(
    locks: Locks, counted: CountedDatabase
) -> None:
    some = range(0, CROWD + 1, 20)
    found = await asyncio.gather(*(renewed(locks, IDS[place]) for place in some))
    assert [one.standing for one in found] == ["holding", *map(str, some[1:])]
    assert {(one.lock.holding, one.lock.waiting) for one in found} == {(1, CROWD)}
    assert counted.written == [len(some), 0]
    assert counted.seen == [3 * len(some), 3 * len(some)]


async def test_a_lock_given_back_goes_to_the_next_and_whoever_is_far_behind_reads_nothing(
    locks: Locks,
    counted: CountedDatabase,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lock, "LOOK_AGAIN_S", DEADLINE_S)  # nobody looks without a word meanwhile
    waiting = [
        services.spawn(renewed(locks, id, seen=str(place), wait_s=DEADLINE_S), id)
        for place, id in enumerate(IDS[1:], 1)
    ]
    await counted.until_read(CROWD)
    async with asyncio.timeout(DEADLINE_S):
        await locks.release("db", IDS[0], by=BY)
        told = [one.standing for one in await asyncio.gather(*waiting[:NEAR])]
        assert told == ["holding", *map(str, range(1, NEAR))]
        for gone, held, first in zip(IDS[1:], IDS[2:], IDS[3:6], strict=False):
            await locks.release("db", gone, by=BY)
            assert (await renewed(locks, held)).standing == "holding"
            assert (await renewed(locks, first)).standing == "1"
        await asyncio.gather(*waiting[NEAR : NEAR + 4])  # each release moves one more near
    assert not any(task.done() for task in waiting[NEAR + 4 :])
    assert counted.seen[0] < CROWD + 10 * NEAR
