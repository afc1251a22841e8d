"""Simulate seeds: `python -m tests.sim.simulate --seed S [--seeds N] [--mutation NAME]`.

One line per seed. A seed that fails is told with the sentence of the invariant and the last lines
of its trace; the same seed gives the same trace (with the same PYTHONHASHSEED, which is set here).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from quarterdeck.fabric.memory import Chance
from quarterdeck.service import seeded
from tests.sim.checks import Checks
from tests.sim.clock import pause, run
from tests.sim.directed import DIRECTED
from tests.sim.mischief import befall
from tests.sim.mutations import MUTATIONS, mutated
from tests.sim.plan import Plan
from tests.sim.world import World

SERVERS = 3
NODES = 50
FEW_NODES = 8
QUIET_WITHIN_S = 400.0
FEW_QUIET_WITHIN_S = 120.0
LOOK_S = 2.0
TRACE_TOLD = 60


class Result:
    """What came of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.violation: str | None = None
        self.trace: list[str] = []
        self.attempts = 0
        self.virtual_s = 0.0
        self.cpu_s = 0.0
        self.digest = ""


def simulate(seed: int, mutation: str = "", script: str = "") -> Result:
    """One seed from start to quiet, in the real code or in a mutation of it; random faults, or the
    script of a directed plan."""
    work = Path(tempfile.mkdtemp(prefix="qd-sim-", dir=_memory_directory()))
    result = Result(seed)
    began = time.process_time()
    try:
        with seeded(seed), mutated(mutation):
            run(lambda: _live(seed, work, result, script), seed=seed)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    result.cpu_s = time.process_time() - began
    return result


async def _live(seed: int, work: Path, result: Result, script: str) -> None:
    world = World(seed, servers=SERVERS, nodes=FEW_NODES if script else NODES, work=work)
    checks = Checks(world)
    plan = Plan(world)
    try:
        await world.start()
        await _until_up(world)
        checks.watch_facts()
        world.task(plan.sync(), "sync")
        if script:
            await _play(world, plan, script)
        else:
            await _random(world, plan)
        await _mend(world)
        await _until_quiet(world, checks, plan, FEW_QUIET_WITHIN_S if script else QUIET_WITHIN_S)
        checks.at_end()
    finally:
        result.virtual_s = world.clock.monotonic()
        result.violation = world.violation
        result.trace = list(world.trace)
        result.digest = world.digest.hexdigest()
        result.attempts = checks.sealed
        await world.stop()


async def _random(world: World, plan: Plan) -> None:
    asked = world.task(plan.ask(), "plan")
    befalling = world.task(befall(world), "faults")
    while world.violation is None and not (asked.done() and befalling.done()):
        await pause(LOOK_S)


async def _play(world: World, plan: Plan, script: str) -> None:
    played = world.task(DIRECTED[script](world), script)
    watched = world.task(plan.watch_all(), "viewers")
    while world.violation is None and not played.done():
        await pause(LOOK_S)
    watched.cancel()
    world.core.faults.core = world.core.faults.stores = world.core.faults.acks = Chance()


async def _until_up(world: World) -> None:
    while len(world.live_servers()) < len(world.servers):
        await pause(LOOK_S / 10)


async def _mend(world: World) -> None:
    """End every fault that has not ended by itself."""
    for task in [task for task in asyncio.all_tasks() if task.get_name() == "noise"]:
        task.cancel()
    end = world.clock.monotonic() + 45.0
    while world.violation is None and world.clock.monotonic() < end:
        if not any(task.get_name().startswith("fault ") for task in asyncio.all_tasks()):
            return
        await pause(LOOK_S)


async def _until_quiet(world: World, checks: Checks, plan: Plan, within_s: float) -> None:
    end = world.clock.monotonic() + within_s
    left: list[str] = []
    while world.violation is None:
        left = checks.left_over()
        left += [f"a viewer of {plan.runs} waits" for viewer in plan.viewers if not viewer.finished]
        if not left:
            return
        if world.clock.monotonic() > end:
            world.violated(f"L1: {len(left)} not quiet after {within_s:g} s: {left[:5]}")
        await pause(LOOK_S)


def _memory_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def tell(result: Result) -> None:
    """One line, and the end of the trace when it failed."""
    verdict = "ok" if result.violation is None else "FAILED"
    print(
        f"seed {result.seed:5} {verdict:6} {result.attempts:4} attempts, "
        f"{result.virtual_s:5.0f} s in {result.cpu_s:5.2f} s of CPU, trace {result.digest}",
        flush=True,
    )
    if result.violation is not None:
        print(*result.trace[-TRACE_TOLD:], sep="\n")
        print(f"seed {result.seed}: {result.violation}", flush=True)


def main(argv: list[str]) -> int:
    """0 when every seed held."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.simulate")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--step", type=int, default=1, help="between one and the next")
    parser.add_argument("--mutation", default="", choices=sorted(MUTATIONS), help="a seeded bug")
    parser.add_argument("--script", default="", choices=sorted(DIRECTED), help="a directed plan")
    known = parser.parse_args(argv)
    failed = 0
    gc.freeze()  # what was imported is never garbage
    gc.set_threshold(50_000, 20, 20)
    for number in range(known.seeds):
        result = simulate(known.seed + number * known.step, known.mutation, known.script)
        tell(result)
        failed += result.violation is not None
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.sim.simulate", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main(sys.argv[1:]))
