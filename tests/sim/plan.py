"""What people ask of the fleet, all from one seed; mischief.py is what befalls it meanwhile."""

from __future__ import annotations

import asyncio

from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Amount, OnLimit, Order, Pick, PickBy, Retry
from quarterdeck.core.model import Plan as RunPlan
from quarterdeck.errors import QuarterdeckError
from quarterdeck.store import run as run_store
from tests.sim.clock import pause
from tests.sim.mischief import FAULTS_S
from tests.sim.viewer import Viewer
from tests.sim.world import World

RUNS = 8
MOST_NODES = 10
SYNC_S = 5.0
LONG_GRACE_S = 1000.0
LOOK_S = 0.3
ANSWER_S = 70.0  # a stopped server goes on after a minute


class Plan:
    """The runs of one seed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self.runs: list[str] = []
        self.viewers: list[Viewer] = []

    async def ask(self) -> None:
        """Runs over random nodes, some cancelled once or twice, one of them watched."""
        world = self._world
        for number in range(RUNS):
            world.task(self._one_run(watched=number == 2), f"asks for run {number}")
            await pause(self._random.uniform(0.5, 2 * FAULTS_S / RUNS - 0.5))

    async def sync(self) -> None:
        """The kernels of all machines write back, for ever."""
        while True:
            await pause(SYNC_S)
            for machine in self._world.machines.values():
                machine.sync()

    async def watch_all(self) -> None:
        """A viewer for every run that somebody else makes, for ever."""
        seen: set[str] = set()
        while True:
            runs = self._world.store.look(lambda tx: run_store.page(tx, run_store.RunFilter()))
            for run in runs:
                if run.id not in seen and not self._world.cache_damaged:
                    self._view(run.id)
                seen.add(run.id)
            await pause(LOOK_S)

    def _view(self, run: str) -> None:
        viewer = Viewer(self._world, run)
        self.viewers.append(viewer)
        self._world.task(viewer.look(), f"viewer {run}")

    # ---- what is asked

    def _order(self) -> Order:
        random = self._random
        stubborn = random.random() < 0.2
        words = [
            "sim",
            f"ticks={random.choice((0, 1, 3, 8, 20))}",
            f"every={random.choice((0.01, 0.1, 0.5, 1.0))}",
            f"size={random.choice((1, 40, 300, 9000))}",
            f"exit={random.choice((0, 0, 0, 1, 7))}",
            *(["stubborn"] if stubborn else []),
            *(["broken"] if random.random() < 0.05 else []),
        ]
        return Order(
            argv=tuple(words),
            timeout_s=random.choice((0.0, 0.0, 2.0, 6.0)),
            grace_s=random.choice((0.5, 3.0)),
            lost_after_s=random.choice((0.0, 0.0, 0.0, 20.0)),
        )

    def _pick(self, nodes: int) -> Pick:
        by = self._random.choice((PickBy.LEAST_LOAD, PickBy.FEWEST_TASKS, PickBy.RANDOM))
        return Pick(count=self._random.randint(1, nodes), by=by)

    def _plan(self, nodes: int) -> RunPlan:
        random = self._random
        return RunPlan(
            offline_ttl_s=random.choice((0.0, 5.0, 60.0)),
            max_parallel=random.choice((None, None, Amount(count=1), Amount(percent=40.0))),
            max_failures=random.choice((None, None, Amount(count=0), Amount(percent=25.0))),
            on_limit=random.choice((OnLimit.FINISH, OnLimit.STOP)),
            canary=random.choice((0, 0, 0, 1, 2)),
            deadline_s=random.choice((0.0, 0.0, 0.0, 10.0)),
            priority=random.choice((0, 0, 1)),
            pick=self._pick(nodes) if random.random() < 0.25 else None,
            retry=Retry(
                attempts=random.choice((1, 1, 2, 4)),
                max_delay_s=4.0,
                never_on=random.choice(((), (7,))),
                elsewhere=random.random() < 0.3,
                idempotent=random.random() < 0.3,
            ),
        )

    async def _one_run(self, *, watched: bool) -> None:
        random = self._random
        nodes = random.sample(sorted(self._world.machines), random.randint(1, MOST_NODES))
        twice = random.random() < 0.15
        order = self._order()
        if twice:  # only the second cancel can end this in time
            argv = ("sim", "ticks=100000", "every=0.5", "size=20", "stubborn")
            order = Order(argv=argv, grace_s=LONG_GRACE_S)
        new = NewRun(
            target=",".join(nodes),
            order=order,
            created_by="sim",
            plan=RunPlan() if twice else self._plan(len(nodes)),
            key=f"key-{random.random()}",
        )
        run = await self._create(new)
        self.runs.append(run)
        if watched:
            self._view(run)
        if twice or random.random() < 0.4:
            for nth in (1, 2) if twice else (1,):
                await pause(random.uniform(0, 8))
                await self._cancel(run, nth)

    async def _create(self, new: NewRun) -> str:
        """Asked again, with the same key, until a server says yes."""
        while True:
            for server in self._world.live_servers():
                try:
                    async with asyncio.timeout(ANSWER_S):  # a killed server says nothing at all
                        return (await server.runs.create(new)).id
                except (QuarterdeckError, TimeoutError) as error:
                    self._world.note(f"create: {error!r}")
            await pause(1)

    async def _cancel(self, run: str, nth: int) -> None:
        while True:
            for server in self._world.live_servers():
                try:
                    async with asyncio.timeout(ANSWER_S):
                        await server.runs.cancel(run, nth=nth)
                    return
                except (QuarterdeckError, TimeoutError) as error:
                    self._world.note(f"cancel: {error!r}")
                    if isinstance(error, QuarterdeckError) and error.code == "run_ended":
                        return
            await pause(1)
