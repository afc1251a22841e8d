"""Starting and stopping: pokes are kept, loops come back, stop leaves nothing, being told wins."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC

import pytest

from quarterdeck.errors import Unavailable
from quarterdeck.service import (
    CALM_S,
    FIRST_DELAY_S,
    Poke,
    Services,
    SystemClock,
    entropy,
    first_of,
    guarded,
    jitter,
    sentence,
    until_told,
)
from tests.clocks import HandClock

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0


class Told:
    """Takes what `Services` tells of failures, and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, float]] = []
        self._changed = asyncio.Event()

    def __call__(self, name: str, what: str, delay_s: float) -> None:
        self.all.append((name, what, delay_s))
        self._changed.set()

    async def wait(self, number: int) -> list[tuple[str, str, float]]:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.all) < number:
                self._changed.clear()
                await self._changed.wait()
        return self.all


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def services(told: Told, clock: HandClock) -> AsyncIterator[Services]:
    made = Services(told, clock)
    yield made
    await made.stop()


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


# ---- Poke


async def test_pokes_that_come_early_are_kept_and_given_once() -> None:
    poke = Poke()
    poke("a", "b")
    poke("b", "c")
    assert await poke.wait() == {"a", "b", "c"}
    assert await poke.wait(0.001) == set()


async def test_a_poke_wakes_who_waits() -> None:
    poke = Poke()
    loop = asyncio.get_running_loop()
    loop.call_soon(poke, "a")
    async with asyncio.timeout(DEADLINE_S):
        assert await poke.wait() == {"a"}


async def test_a_poke_without_keys_wakes_as_well() -> None:
    poke = Poke()
    poke()
    async with asyncio.timeout(DEADLINE_S):
        assert await poke.wait() == set()


async def test_a_wait_that_was_cancelled_loses_no_poke(services: Services) -> None:
    poke = Poke()
    waiting = services.spawn(poke.wait(), "waiting")
    await asyncio.sleep(0)
    poke("a")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert await poke.wait(DEADLINE_S) == {"a"}


# ---- Services


async def test_a_loop_that_fails_is_told_and_started_again_later_each_time(
    services: Services, told: Told
) -> None:
    services.loop("bad", failing(ValueError("no\n  such thing")))
    failures = await told.wait(2)
    for number, (name, what, delay_s) in enumerate(failures):
        assert (name, what) == ("bad", "ValueError: no such thing")
        assert 0 <= delay_s <= FIRST_DELAY_S * 2**number
    assert services.doing() == ["bad"]


async def test_a_loop_that_was_calm_for_long_starts_again_quickly(
    services: Services, told: Told, clock: HandClock
) -> None:
    async def work() -> None:
        clock.at += CALM_S + 1
        raise Unavailable("x", "The disk is full.")

    services.loop("calm", work)
    failures = await told.wait(4)
    assert {(name, what) for name, what, _ in failures} == {("calm", "The disk is full.")}
    assert max(delay_s for _, _, delay_s in failures) <= FIRST_DELAY_S


async def test_a_loop_goes_on_with_its_work_after_an_error(services: Services, told: Told) -> None:
    turns: asyncio.Queue[int] = asyncio.Queue()
    count = 0

    async def work() -> None:
        nonlocal count
        count += 1
        turns.put_nowait(count)
        if count == 1:
            raise OSError("gone")
        await for_ever()

    services.loop("work", work)
    async with asyncio.timeout(DEADLINE_S):
        assert [await turns.get(), await turns.get()] == [1, 2]
    assert len(told.all) == 1


async def test_a_loop_that_is_done_is_not_started_again(services: Services, told: Told) -> None:
    async def work() -> None:
        pass

    await services.loop("done", work)
    await asyncio.sleep(0)
    assert services.doing() == [] and told.all == []


async def test_a_loop_survives_that_something_it_awaits_was_cancelled(
    services: Services, told: Told
) -> None:
    async def work() -> None:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    loop = services.loop("unlucky", work)
    await asyncio.wait([loop], timeout=0.5)
    assert not loop.done()
    assert [name for name, _, _ in told.all][:1] == ["unlucky"]


async def test_an_error_of_a_task_is_told_once(services: Services, told: Told) -> None:
    async def work() -> int:
        raise KeyError("x")

    task = services.spawn(work(), "one")
    with pytest.raises(KeyError):
        await task
    assert await told.wait(1) == [("one", "KeyError: 'x'", 0.0)]
    assert services.doing() == []


async def test_a_task_gives_its_result(services: Services, told: Told) -> None:
    async def work() -> int:
        return 5

    assert await services.spawn(work(), "five") == 5
    assert told.all == []


async def test_stop_ends_everything_newest_first_and_may_be_called_again(
    services: Services, told: Told
) -> None:
    ended: list[str] = []

    async def noted(name: str) -> None:
        try:
            await for_ever()
        finally:
            ended.append(name)

    tasks = [services.spawn(noted(name), name) for name in ("first", "second", "third")]
    await asyncio.sleep(0)
    assert services.doing() == ["first", "second", "third"]
    await asyncio.gather(services.stop(), services.stop())
    await services.stop()
    assert ended == ["third", "second", "first"]
    assert services.doing() == [] and all(task.cancelled() for task in tasks)
    assert told.all == []


async def test_stop_also_ends_what_was_started_during_it(services: Services) -> None:
    late: list[asyncio.Task[None]] = []

    async def stubborn() -> None:
        try:
            await for_ever()
        finally:
            late.append(services.spawn(for_ever(), "late"))

    services.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        await services.stop()
    assert late[0].cancelled() and services.doing() == []


async def test_stop_waits_for_what_tidies_up(services: Services) -> None:
    tidied = False

    async def tidy() -> None:
        nonlocal tidied
        try:
            await for_ever()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            tidied = True

    services.spawn(tidy(), "tidy")
    await asyncio.sleep(0)
    await services.stop()
    assert tidied


async def test_stop_ends_a_loop_that_waits_to_be_started_again(
    services: Services, told: Told
) -> None:
    loop = services.loop("bad", failing(ValueError()))
    await told.wait(1)
    async with asyncio.timeout(DEADLINE_S):
        await services.stop()
    assert loop.cancelled()


# ---- guarded, sentence


async def test_guarded_work_gives_its_result_or_what_is_made_of_its_error() -> None:
    async def good() -> str:
        return "good"

    async def bad() -> str:
        raise ValueError("x")

    assert await guarded(good(), sentence) == "good"
    assert await guarded(bad(), sentence) == "ValueError: x"


async def test_guarded_work_can_still_be_cancelled(services: Services) -> None:
    task = services.spawn(guarded(for_ever(), lambda error: None), "guarded")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


# ---- first_of, until_told


async def tell(what: str) -> str:
    return what


async def nothing() -> None:
    pass


async def never_told() -> str:
    await for_ever()
    return ""


async def test_after_the_start_what_was_told_is_waited_for() -> None:
    order: list[str] = []
    started = asyncio.Event()

    async def start() -> None:
        order.append("started")
        started.set()

    async def told() -> str:
        await started.wait()
        order.append("told")
        return "SIGTERM"

    assert await first_of(start(), told()) == "SIGTERM"
    assert order == ["started", "told"]


async def test_being_told_ends_an_unfinished_start() -> None:
    cancelled = False

    async def start() -> None:
        nonlocal cancelled
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async with asyncio.timeout(DEADLINE_S):
        assert await first_of(start(), tell("SIGINT")) == "SIGINT"
    assert cancelled


async def test_an_error_of_the_start_is_raised() -> None:
    async def start() -> None:
        raise Unavailable("port", "The port is taken.")

    with pytest.raises(Unavailable, match="taken"):
        await first_of(start(), never_told())


async def test_cancelling_first_of_leaves_no_task(services: Services) -> None:
    task = services.spawn(first_of(nothing(), never_told()), "both")
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert {each.get_name() for each in asyncio.all_tasks()} & {"start", "signals"} == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_told_by_name_and_its_handler_taken_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
    async with asyncio.timeout(DEADLINE_S):
        assert await until_told() == number.name
    assert signal.getsignal(number) in (before, signal.SIG_DFL, signal.default_int_handler)


async def test_the_end_of_the_supervisors_pipe_is_told() -> None:
    ours, theirs = os.pipe()
    asyncio.get_running_loop().call_soon(os.close, theirs)
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert await until_told(ours) == "supervisor gone"
    finally:
        os.close(ours)


# ---- clock, chance


async def test_the_clock_is_aware_and_monotonic() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


async def test_chance_has_the_length_and_range_it_says() -> None:
    assert len(entropy(16)) == 16 and entropy(16) != entropy(16)
    assert all(0 <= jitter() < 1 for _ in range(100))
