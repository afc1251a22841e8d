"""Virtual time, and the memory fabric on it: the same seed gives the same run."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time

import pytest

from quarterdeck.fabric.base import Limits, Message, Stored
from quarterdeck.fabric.memory import Chance, Faults, MemoryCore, MemoryFabric
from quarterdeck.service import Services
from tests.sim.clock import EPOCH, Deadlock, SimClock, run

Trace = list[tuple[float, str]]
NODES = ("n1", "n2", "n3")
FACTS = 60


async def pause(seconds: float) -> None:
    """Lets virtual time pass."""
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, over.set_result, None)
    await over


def test_ten_minutes_pass_in_milliseconds() -> None:
    clock = SimClock()

    async def main() -> float:
        for _ in range(600):
            await pause(1)
        assert (clock.now() - EPOCH).total_seconds() == pytest.approx(600)
        return clock.monotonic()

    began = time.monotonic()
    assert run(main, seed=1) == pytest.approx(600)
    assert time.monotonic() - began < 2


def test_timers_fire_in_the_order_of_their_times() -> None:
    seen: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in (3.0, 1.0, 2.5, 0.1):
            loop.call_later(delay, seen.append, delay)
        await pause(4)

    run(main, seed=1)
    assert seen == [0.1, 1.0, 2.5, 3.0]


def test_a_deadlock_names_the_tasks_that_wait() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="the waiter")

    with pytest.raises(Deadlock, match=r"nothing is ready and no timer.*the waiter in Event\.wait"):
        run(main, seed=1)


def test_what_goes_to_a_thread_runs_in_line() -> None:
    async def main() -> None:
        assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    run(main, seed=1)


def test_a_task_that_is_left_over_fails_the_run() -> None:
    async def main() -> None:
        main.task = asyncio.get_running_loop().create_task(pause(9), name="left")  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match="left in"):
        run(main, seed=1)


async def ten_rough_minutes(seed: int) -> Trace:
    """A server and three nodes store, beat and ask through every kind of fault; what happened."""
    trace: Trace = []
    clock = SimClock()
    services = Services(lambda name, text, _: note(f"{name} failed: {text}"), clock)
    rough = Chance(lost=0.1, doubled=0.1, delayed=0.2, delay_s=3.0)
    core = MemoryCore(
        random.Random(seed).random,
        faults=Faults(latency_s=0.001, jitter_s=0.002, core=rough, stores=rough, acks=rough),
    )

    def note(text: str) -> None:
        trace.append((clock.monotonic(), text))

    def link(who: str, role: str) -> MemoryFabric:
        return MemoryFabric(
            core,
            who,
            role,
            spawn=services.spawn,
            on_error=lambda text: note(f"{who}: {text}"),
        )

    def heard(message: Message) -> None:
        note(f"heard {message.subject} {message.data.decode()}")

    server = link("s1", "server")
    await server.start()
    core.faults.core = Chance()
    await server.ensure_streams(Limits(ack_wait_s=5.0))
    core.faults.core = rough
    await server.subscribe("hb.*", heard)
    nodes = [link(name, "node") for name in NODES]
    got: dict[str, None] = {}

    async def ingest() -> None:
        async for batch in server.consume("EV", "ingest", batch=10):
            for delivery in batch:
                note(f"got {delivery.data.decode()}")
                got[delivery.data.decode()] = None
                delivery.ack()

    async def live(name: str, node: MemoryFabric) -> None:
        await node.start()
        await node.subscribe(f"cmd.{name}.>", heard)
        for number in range(FACTS):
            text = f"{name}-{number}"
            if node.connected:
                await node.publish(f"hb.{name}", text.encode())
            answer = await node.store(f"ev.{name}.a", text.encode(), message_id=text)
            assert isinstance(answer, Stored)
            await pause(5)

    async def mischief() -> None:
        for at, act in enumerate(
            [
                lambda: core.partition("n1"),
                lambda: core.partition("s1"),
                core.crash,
                core.restart,
                lambda: core.heal("n1"),
                lambda: core.heal("s1"),
                lambda: core.cut("n2"),
                core.crash,
                core.restart,
            ]
        ):
            await pause(17 + at)
            act()

    work = [services.spawn(live(name, node), name) for name, node in zip(NODES, nodes, strict=True)]
    ingesting = services.spawn(ingest(), "ingest")
    await services.spawn(mischief(), "mischief")
    await asyncio.gather(*work)
    while len(got) < FACTS * len(NODES):
        await pause(1)
    await pause(600 - clock.monotonic() % 600)
    for node in nodes:
        node.crash()
    for each in (server, *nodes):
        await each.stop()
    await ingesting
    await services.stop()
    core.crash()
    assert core.held("EV") == 0
    return trace


def test_the_same_seed_gives_the_same_trace_and_another_does_not() -> None:
    began = time.monotonic()
    first = run(lambda: ten_rough_minutes(7), seed=7)
    assert run(lambda: ten_rough_minutes(7), seed=7) == first
    assert run(lambda: ten_rough_minutes(8), seed=8) != first
    assert first[-1][0] > 300
    assert time.monotonic() - began < 20


def test_the_trace_does_not_depend_on_hashes_and_addresses() -> None:
    code = (
        "from tests.sim import test_clock as t; from tests.sim.clock import run; import hashlib\n"
        "print(hashlib.sha256(repr(run(lambda: t.ten_rough_minutes(3), seed=3)).encode())"
        ".hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(found) == 1, found
