"""One behaviour of every machine an agent can run on: real files and processes, and simulated."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from quarterdeck.agent import machine as real
from quarterdeck.agent.held import Held, Refusal
from quarterdeck.agent.host import Claim, Host
from quarterdeck.agent.shim import files
from quarterdeck.core.states import Phase, RefusalCode
from quarterdeck.errors import Broken, Conflict, Invalid
from quarterdeck.service import Services, SystemClock
from quarterdeck.wire.run import OrderMessage
from tests.contracts.host_bench import Bench, RealBench, SimulatedBench, SshBench

RUN = "0123456789abcdef"
FIRST = f"{RUN}-0-1"
DEADLINE_S = 30.0


@pytest.fixture(params=["real", "simulated", "ssh"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    match request.param:
        case "real":
            yield RealBench(tmp_path / "state")
        case "simulated":
            yield SimulatedBench()
        case _:
            services = Services(failed, SystemClock())
            yield SshBench(request.getfixturevalue("ssh"), tmp_path, services)
            await services.stop()


def failed(name: str, error: str, _delay_s: float) -> None:
    raise AssertionError(f"{name}: {error}")


@pytest.fixture
async def host(bench: Bench) -> AsyncIterator[Host]:
    host = bench.host()
    await host.start()
    yield host
    await host.stop()


async def seen(host: Host, attempt: str, condition: Callable[[Held], bool]) -> Held:
    """The attempt as soon as the condition holds, looked at whenever its watch calls."""
    changed = asyncio.Event()
    watch = host.watch(attempt, changed.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                held = host.look(attempt)
                if held is not None and condition(held):
                    return held
                await changed.wait()
                changed.clear()
    finally:
        watch.close()


async def writing(host: Host) -> None:
    """Wait until the command of the attempt has written something."""
    changed = asyncio.Event()
    watch = host.watch(FIRST, changed.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await host.spool(FIRST).size("stdout"):
                await changed.wait()
                changed.clear()
    finally:
        watch.close()


def taken(host: Host, attempt: str) -> Claim:
    """The claim of an attempt that nobody holds."""
    claim = host.claim(attempt)
    assert claim is not None
    return claim


async def started(host: Host, argv: tuple[str, ...], **fields: float | str) -> Held:
    """An accepted attempt whose command runs."""
    await host.accept(FIRST, OrderMessage(argv=argv, **fields))  # type: ignore[arg-type]
    await taken(host, FIRST).start()
    return await seen(host, FIRST, lambda held: held.started is not None)


async def ended(host: Host) -> files.Exit:
    """The end of the attempt, after its shim is gone."""
    held = await seen(host, FIRST, lambda held: held.end is not None)
    async with asyncio.timeout(DEADLINE_S):
        await host.until_shim_gone(FIRST)
    assert held.end is not None
    return held.end


def stop(count: int, number: int = signal.SIGTERM, grace_s: float = 10.0) -> files.Stop:
    return files.Stop(count=count, signal=number, reason="cancelled", grace_s=grace_s)


async def test_an_accepted_order_is_a_fact_that_is_found_again(host: Host, bench: Bench) -> None:
    assert host.look(FIRST) is None
    await host.accept(FIRST, OrderMessage(argv=bench.order()))
    held = host.look(FIRST)
    assert held is not None
    assert (held.phase, held.revision, held.started, held.end) == (Phase.ACCEPTED, 1, None, None)
    assert host.scan() == [FIRST]


async def test_what_is_no_attempt_id_is_refused_everywhere(host: Host, bench: Bench) -> None:
    for wrong in ("../../etc", "", f"{RUN}-0-0", f"{RUN}-0-1/x"):
        with pytest.raises(Invalid):
            host.look(wrong)
        with pytest.raises(Invalid):
            host.claim(wrong)
        with pytest.raises(Invalid):
            host.spool(wrong)
        with pytest.raises(Invalid):
            await host.accept(wrong, OrderMessage(argv=bench.order()))


async def test_an_attempt_has_one_holder_at_a_time(host: Host, bench: Bench) -> None:
    await host.accept(FIRST, OrderMessage(argv=bench.order()))
    claim = taken(host, FIRST)
    assert host.claim(FIRST) is None
    claim.close()
    claim.close()
    taken(host, FIRST).close()


async def test_a_command_runs_to_its_end_with_exact_output(host: Host, bench: Bench) -> None:
    held = await started(host, bench.order(ticks=3, exit=7))
    assert held.phase is Phase.RUNNING and held.revision == 2
    end = await ended(host)
    assert (end.reason, end.code, end.signal) == (None, 7, None)
    expected = bench.written(FIRST, 3)
    spool = host.spool(FIRST)
    assert await spool.read("stdout", 0, 1 << 20) == expected
    assert await spool.read("stdout", 2, 5) == expected[2:7]
    assert await spool.size("stdout") == end.streams["stdout"].bytes == len(expected)
    assert end.streams["stdout"].sha256 == hashlib.sha256(expected).hexdigest()
    assert await spool.size("times") > 0
    spool.close()
    held_after = host.look(FIRST)
    assert held_after is not None
    assert held_after.phase is Phase.ENDED and held_after.revision == 3


async def test_a_shim_holds_its_attempt_until_it_is_gone(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1000))
    assert host.claim(FIRST) is None
    await host.ask(FIRST, stop(1, signal.SIGKILL))
    await ended(host)
    taken(host, FIRST).close()


async def test_what_began_once_is_not_started_again(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1))
    await ended(host)
    with pytest.raises(Broken):
        await taken(host, FIRST).start()
    assert await host.spool(FIRST).size("stdout") == len(bench.written(FIRST, 1))
    taken(host, FIRST).close()


async def test_a_stop_before_the_start_keeps_the_command_from_running(
    host: Host, bench: Bench
) -> None:
    await host.accept(FIRST, OrderMessage(argv=bench.order(ticks=3)))
    await host.ask(FIRST, stop(1))
    held = host.look(FIRST)
    assert held is not None and held.phase is Phase.STOPPING and held.revision == 2
    await taken(host, FIRST).start()
    end = await ended(host)
    assert (end.reason, end.code) == ("cancelled", None)
    assert end.streams["stdout"].bytes == 0


async def test_a_stop_ends_a_running_command_with_its_signal(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1000))
    await writing(host)
    await host.ask(FIRST, stop(1))
    end = await ended(host)
    assert (end.reason, end.code, end.signal) == ("cancelled", None, signal.SIGTERM)


async def test_what_ignores_a_stop_is_killed_after_its_grace(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1000, stubborn=True))
    await writing(host)
    await host.ask(FIRST, stop(1, grace_s=0.1))
    end = await ended(host)
    assert (end.reason, end.signal) == ("cancelled", signal.SIGKILL)


async def test_each_stop_is_a_fact_of_its_own(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1000, stubborn=True))
    await writing(host)
    await host.ask(FIRST, stop(1))
    held = host.look(FIRST)
    assert held is not None and held.revision == 3
    await host.ask(FIRST, stop(3, signal.SIGKILL))
    await ended(host)
    held = host.look(FIRST)
    assert held is not None and held.revision == 6


async def test_a_timeout_is_noted_before_the_command_is_stopped(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1000), timeout_s=0.3, grace_s=5.0)
    await seen(host, FIRST, lambda held: held.overdue)
    end = await ended(host)
    assert (end.reason, end.signal) == ("timeout", signal.SIGTERM)


async def test_output_past_the_limit_is_dropped_and_counted(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=3), max_output=10)
    end = await ended(host)
    total = len(bench.written(FIRST, 3))
    assert (end.streams["stdout"].bytes, end.streams["stdout"].dropped) == (10, total - 10)


async def test_a_killed_shim_leaves_its_output_and_no_end(host: Host, bench: Bench) -> None:
    held = await started(host, bench.order(ticks=1000))
    await writing(host)
    bench.kill_shim(held)
    async with asyncio.timeout(DEADLINE_S):
        await host.until_shim_gone(FIRST)
    claim = taken(host, FIRST)
    held_after = host.look(FIRST)
    assert held_after is not None and held_after.end is None
    remains = await claim.clear(held_after)
    data = await host.spool(FIRST).read("stdout", 0, 1 << 20)
    assert remains.survivors == 0 and not remains.rebooted
    assert remains.streams["stdout"].bytes == len(data)
    assert remains.streams["stdout"].sha256 == hashlib.sha256(data).hexdigest()
    end = files.Exit("lost", None, None, None, 0.0, 1.0, remains.streams, 0, False)
    await claim.end(end)
    claim.close()
    held_after = host.look(FIRST)
    assert held_after is not None and held_after.end == end and held_after.revision == 3


async def test_a_machine_has_one_agent_and_the_next_one_adopts(bench: Bench) -> None:
    first, second = bench.host(), bench.host()
    await first.start()
    try:
        with pytest.raises(Conflict):
            await second.start()
        await second.stop()
        await started(first, bench.order(ticks=1000))
    finally:
        await first.stop()
    third = bench.host()
    await third.start()
    try:
        assert third.scan() == [FIRST]
        assert third.claim(FIRST) is None
        await third.ask(FIRST, stop(1))
        end = await ended(third)
        assert end.reason == "cancelled"
    finally:
        await third.stop()


async def test_a_release_deletes_all_but_a_tombstone(host: Host, bench: Bench) -> None:
    await started(host, bench.order(ticks=1))
    await ended(host)
    await host.release(FIRST)
    await host.release(FIRST)
    assert host.look(FIRST) is None and host.scan() == [] and host.buried(FIRST)
    assert await host.spool(FIRST).size("stdout") == 0


async def test_a_tombstone_stays_until_it_is_old(host: Host) -> None:
    assert not host.buried(FIRST)
    await host.bury(FIRST)
    assert host.buried(FIRST)
    now = SystemClock().now().timestamp()
    assert await host.prune(now - 100) == 0 and host.buried(FIRST)
    assert await host.prune(now + 100) == 1 and not host.buried(FIRST)


async def test_the_words_of_a_refusal_are_found_again_by_the_next_agent(
    host: Host, bench: Bench
) -> None:
    full = Refusal(code=RefusalCode.DISK, text="The disk is full.")
    await host.bury(FIRST, full)
    await host.stop()
    after = bench.host()
    await after.start()
    try:
        assert after.scan() == [] and after.buried(FIRST) == full
    finally:
        await after.stop()


async def test_the_leash_and_the_hint_are_kept_with_the_attempt(host: Host, bench: Bench) -> None:
    await host.accept(FIRST, OrderMessage(argv=bench.order(), lost_after_s=5.0))
    assert (await host.terms(FIRST)).leashed
    spool = host.spool(FIRST)
    assert spool.acked() == {}
    spool.save_acked({"stdout": 3, "stderr": 0})
    assert host.spool(FIRST).acked() == {"stdout": 3, "stderr": 0}


async def test_a_watch_that_was_closed_calls_nobody(host: Host, bench: Bench) -> None:
    await host.accept(FIRST, OrderMessage(argv=bench.order()))
    calls: list[None] = []
    watch = host.watch(FIRST, lambda: calls.append(None))
    assert watch.patience_s > 0
    watch.close()
    watch.close()
    await taken(host, FIRST).start()
    await ended(host)
    assert calls == []


async def test_output_is_read_behind_room_for_a_header(host: Host, bench: Bench) -> None:
    await host.accept(FIRST, OrderMessage(argv=bench.order()))
    await taken(host, FIRST).start()
    await writing(host)
    spool = host.spool(FIRST)
    first = await spool.read("stdout", 0, 2)
    assert first
    assert await spool.read_behind(4, "stdout", 0, 2) == bytes(4) + first
    size = await spool.size("stdout")
    assert await spool.read_behind(4, "stdout", size + 1000, 2) == bytes(4)
    spool.close()


async def test_a_machine_says_what_it_is(host: Host) -> None:
    assert host.facts().boot_id
    assert host.free_bytes() > 0
    assert host.load().disk_free > 0
    host.contact()


async def test_the_end_of_a_short_command_is_noticed_without_a_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the fork and `started` the shim is known by what the spawner answered."""
    monkeypatch.setattr(real, "SHIM_LOOK_S", 10 * DEADLINE_S)
    bench = RealBench(tmp_path / "state")
    host = bench.host()
    await host.start()
    try:
        await host.accept(FIRST, OrderMessage(argv=("true",)))
        await taken(host, FIRST).start()
        async with asyncio.timeout(DEADLINE_S):
            await host.until_shim_gone(FIRST)
        held = host.look(FIRST)
        assert held is not None and held.end is not None and held.end.code == 0
    finally:
        await host.stop()
