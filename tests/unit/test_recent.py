"""What was read a moment ago is used again, never too late and never after a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from quarterdeck.control.recent import MOST_S, RENEW_FROM, Recent
from quarterdeck.errors import Denied, Unavailable
from quarterdeck.service import Services
from tests.clocks import HandClock

pytestmark = pytest.mark.anyio

LATE_S = MOST_S * RENEW_FROM + 0.01
OVER_S = MOST_S + 0.01
DENIED = Denied("token_revoked", "revoked")
AWAY = Unavailable("database", "away")


class Record:
    """Answers with a number that counts its readings, or as it was told; may be held up."""

    def __init__(self) -> None:
        self.read = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def __call__(self) -> int:
        self.read += 1
        number, error = self.read, self.error
        self.begun.set()
        await self.gate.wait()
        if error is not None:
            raise error
        return number


@pytest.fixture
async def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def services(clock: HandClock) -> AsyncIterator[Services]:
    made = Services(lambda *_: None, clock)
    yield made
    await made.stop()


@pytest.fixture
async def recent(clock: HandClock, services: Services) -> Recent[int]:
    return Recent("number", clock=clock, services=services, worth=lambda number: number < 100)


@pytest.fixture
async def record() -> Record:
    return Record()


async def renewed() -> None:
    """Whatever is read beside has been read."""
    renewing = [task for task in asyncio.all_tasks() if task.get_name() == "renew number"]
    await asyncio.gather(*renewing)


async def test_a_value_is_used_for_its_time_and_then_read_again(
    recent: Recent[int], record: Record, clock: HandClock
) -> None:
    assert await recent.get("a", record) == 1
    clock.at += MOST_S / 4
    assert await recent.get("a", record) == 1
    clock.at += OVER_S
    assert await recent.get("a", record) == 2
    assert await recent.get("b", record) == 3


async def test_who_keeps_asking_never_waits_for_the_record(
    recent: Recent[int], record: Record, clock: HandClock
) -> None:
    await recent.get("a", record)
    clock.at += LATE_S
    record.gate.clear()
    assert [await recent.get("a", record) for _ in range(3)] == [1, 1, 1]
    record.gate.set()
    await renewed()
    assert record.read == 2, "one of them has it read again"
    clock.at += MOST_S - 0.1  # as old as this from the begin of the second reading
    assert await recent.get("a", record) == 2


async def test_the_age_counts_from_the_begin_of_the_reading(
    recent: Recent[int], record: Record, clock: HandClock
) -> None:
    record.gate.clear()
    slow = asyncio.ensure_future(recent.get("a", record))
    await record.begun.wait()
    clock.at += OVER_S
    record.gate.set()
    assert await slow == 1
    assert await recent.get("a", record) == 2


@pytest.mark.parametrize("everything", [False, True])
async def test_nothing_that_was_read_before_a_change_is_used_after_it(
    recent: Recent[int], record: Record, *, everything: bool
) -> None:
    def changed() -> None:
        if everything:
            recent.forget_all()
        else:
            recent.forget("a")

    await recent.get("a", record)
    changed()
    assert await recent.get("a", record) == 2
    changed()
    record.gate.clear()
    record.begun.clear()
    late = asyncio.ensure_future(recent.get("a", record))
    await record.begun.wait()
    changed()
    record.gate.set()
    assert await late == 3
    assert await recent.get("a", record) == 4, "the reading was under way when it changed"


async def test_whoever_asks_after_a_denial_is_told_it(
    recent: Recent[int], record: Record, clock: HandClock
) -> None:
    await recent.get("a", record)
    record.error = DENIED
    clock.at += LATE_S
    assert await recent.get("a", record) == 1, "who asks first has the record asked"
    await renewed()
    with pytest.raises(Denied):
        await recent.get("a", record)


async def test_while_the_record_is_away_a_value_is_used_for_its_time_and_no_longer(
    recent: Recent[int], record: Record, clock: HandClock
) -> None:
    await recent.get("a", record)
    record.error = AWAY
    clock.at += LATE_S
    for _ in range(2):
        assert await recent.get("a", record) == 1
        await renewed()
    clock.at += LATE_S
    with pytest.raises(Unavailable):
        await recent.get("a", record)


async def test_what_is_not_worth_it_is_not_kept(recent: Recent[int], record: Record) -> None:
    record.read = 100
    assert [await recent.get("a", record) for _ in range(2)] == [101, 102]
