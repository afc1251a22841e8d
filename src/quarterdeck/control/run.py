"""Runs as a service: create, cancel, look at; and the step that turns facts into progress.

`step_run` is a unit of work: it loads what changed, lets the pure machine decide, and writes under
the version guard. Whoever commits facts calls it in the same transaction; `step_due` is the loop
that catches what a crash left due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import msgspec

from quarterdeck.control.lease import DUE, Leases
from quarterdeck.control.moves import Moves
from quarterdeck.control.observe import Fleet
from quarterdeck.control.steady import Steady
from quarterdeck.core import attempt as attempt_machine
from quarterdeck.core import liveness
from quarterdeck.core import run as machine
from quarterdeck.core.ids import attempt_id, task_id
from quarterdeck.core.model import Attempt, Counts, Node, Order, Run, Task
from quarterdeck.core.states import NodeState, RunState
from quarterdeck.core.target import resolved, suggest
from quarterdeck.errors import Conflict, Invalid, Unavailable
from quarterdeck.service import Clock, Poke, jitter
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, StaleWrite, Tx
from quarterdeck.telemetry import RunCreated, Telemetry

T = TypeVar("T")

STEP_BATCH = 2000
TRIES = 12
FIRST_PAUSE_S = 0.01
MAX_PAUSE_S = 0.5
DUE_TICK_S = 2.0
SHOWN = 200


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. `offline_ttl_s` 0 means that a node that is away fails at once."""

    target: str
    order: Order
    title: str = ""
    created_by: str
    namespace: str = "default"
    offline_ttl_s: float = 60.0
    key: str | None = None
    allow_empty: bool = False


class Runs:
    """What the API calls."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        clock: Clock,
        steady: Steady,
        telemetry: Telemetry,
        moves: Moves,
        leases: Leases,
        dispatch: Poke,
        new_id: Callable[[], str],
        room: Callable[[], str],
    ) -> None:
        self._leases = leases
        self._database = database
        self._fleet = fleet
        self._clock = clock
        self._steady = steady
        self._telemetry = telemetry
        self._moves = moves
        self._dispatch = dispatch
        self._new_id = new_id
        self._room = room

    async def create(self, new: NewRun) -> Run:
        """Resolve, write, and let dispatch begin. Raises Invalid, Conflict or Unavailable.

        A repeat with the same idempotency key gives the run that exists, or Conflict when it asks
        for something else.
        """
        try:
            nodes = self._nodes(new)
        except (Invalid, Unavailable):
            known = await self._known(new)  # a repeat asks for nothing new
            if known is None:
                raise
            return await self._same(known, new)
        run, tasks, attempts = self._rows(new, nodes)

        def write(tx: Tx) -> str:
            if new.key is not None and (known := run_store.by_key(tx, new.key)) is not None:
                return known
            run_store.create(tx, run, tasks, attempts, new.key)
            return run.id

        known = await write_guarded(self._database, write)
        if known != run.id:
            return await self._same(known, new)
        self._telemetry.emit(RunCreated(run=run.id, tasks=len(tasks)))
        self._dispatch(*(node.id for node in nodes))
        return run

    def _nodes(self, new: NewRun) -> list[Node]:
        full = self._room()
        if full:
            raise Unavailable("disk_full", full)
        now, every = self._clock.now(), self._fleet.every()
        hits = resolved(new.target, every, now)
        if not hits.nodes and not new.allow_empty:
            hint = suggest(hits.tree, every, now)
            raise Invalid(
                "no_target",
                f"The target {new.target[:SHOWN]!r} hits no node. {hint.text}",
                position=hint.position,
            )
        return list(hits.nodes)

    async def _known(self, new: NewRun) -> str | None:
        key = new.key
        if key is None:
            return None
        return await self._database.read(lambda tx: run_store.by_key(tx, key))

    async def _same(self, run_id: str, new: NewRun) -> Run:
        run = await self.get(run_id)
        orders = await self._database.read(lambda tx: run_store.orders_of(tx, [run_id]))
        if orders[run_id] != new.order or run.target != new.target:
            raise Conflict(
                "idempotency_key",
                f"This idempotency key belongs to run {run_id}, which was another order: "
                "use a new key for each run.",
            )
        return run

    async def get(self, run_id: str) -> Run:
        """Raises NotFound."""
        return await self._database.read(lambda tx: run_store.get(tx, run_store.find(tx, run_id)))

    async def page(self, which: run_store.RunFilter) -> list[Run]:
        return await self._database.read(lambda tx: run_store.page(tx, which))

    async def detail(self, run_id: str) -> tuple[Run, list[Task], list[Attempt]]:
        """A run with its tasks and attempts, of one moment. Raises NotFound."""

        def read(tx: Tx) -> tuple[Run, list[Task], list[Attempt]]:
            run = run_store.get(tx, run_store.find(tx, run_id))
            return run, run_store.tasks_of(tx, run.id), run_store.attempts_of(tx, run.id)

        return await self._database.read(read)

    async def cancel(self, run_id: str, *, nth: int | None = None) -> Run:
        """Ask every task to stop: TERM the first time, KILL when asked again.

        With `nth` this is the nth time at most: a repeat after a broken connection asks once.

        Raises NotFound, and Conflict for a run that has ended.
        """

        def write(tx: Tx) -> tuple[Run, list[tuple[Attempt, Attempt]]]:
            now = self._clock.now()
            run = run_store.get(tx, run_store.find(tx, run_id))
            if run.state is RunState.ENDED:
                raise Conflict("run_ended", f"Run {run.id} has already ended: {run.outcome}.")
            if nth is not None and run.stop_asked >= nth:
                return run, []
            after, commands = machine.step(run, machine.CancelAsked(), now)
            run_store.stepped(tx, after, (), (), more=True)
            pairs = []
            for command in commands:
                stop = attempt_machine.StopAsked(signal=command.signal)
                attempts = run_store.attempts_of(tx, run.id)
                asked = [(a, attempt_machine.step(a, stop, now)) for a in attempts]
                run_store.save_attempts(tx, asked, now)
                pairs += asked
            return step_run(tx, run.id, now), pairs

        run, pairs = await write_guarded(self._database, write)
        self._moves.runs([run])
        self._moves.attempts(pairs)
        return run

    async def step_due(self) -> None:
        """Loop: step runs that a crash left due (duty of one server). Waits for a tick only."""
        while True:
            await asyncio.sleep(DUE_TICK_S)
            if not self._leases.holds(DUE):
                continue
            for run in await self._database.read(lambda tx: run_store.due_runs(tx, 100)):
                step = partial(step_run, run_id=run, now=self._clock.now())
                self._moves.runs([await write_guarded(self._database, step)])

    def _rows(self, new: NewRun, nodes: list[Node]) -> tuple[Run, list[Task], list[Attempt]]:
        now = self._clock.now()
        id = self._new_id()
        tasks = [
            Task(
                id=task_id(id, at),
                run=id,
                position=at,
                node=node.id,
                node_name=node.name,
                node_state=liveness.state(node, now).value,
            )
            for at, node in enumerate(nodes)
        ]
        attempts = [
            Attempt(
                id=attempt_id(task.id, 1),
                run=id,
                task=task.id,
                node=task.node,
                number=1,
                offer_until=self._steady.now() + timedelta(seconds=self._ttl(new, node, now)),
            )
            for task, node in zip(tasks, nodes, strict=True)
        ]
        run = Run(
            id=id,
            target=new.target,
            order=new.order,
            created_at=now,
            created_by=new.created_by,
            namespace=new.namespace,
            title=new.title,
            counts=Counts(total=len(tasks), pending=len(tasks)),
        )
        if not tasks:
            run, _ = machine.step(run, machine.TasksMoved(counts=run.counts), now)
        return run, tasks, attempts

    def _ttl(self, new: NewRun, node: Node, now: datetime) -> float:
        """How long an attempt may wait unsent. A node that is there gets a moment at least."""
        away = liveness.state(node, now) is not NodeState.READY
        return new.offline_ttl_s if away else max(new.offline_ttl_s, liveness.SILENT_AFTER_S)


async def write_guarded(database: Database, unit: Callable[[Tx], T]) -> T:
    """Write a unit; on a stale guard (another server was quicker) load and decide again."""
    pause_s = 0.0
    for _ in range(TRIES - 1):
        try:
            return await database.write(unit)
        except StaleWrite:
            await asyncio.sleep(pause_s * jitter())
            pause_s = min(pause_s * 2, MAX_PAUSE_S) or FIRST_PAUSE_S
    return await database.write(unit)


def step_run(tx: Tx, run_id: str, now: datetime) -> Run:
    """Fold changed attempts into tasks, counts and the run; the run after it."""
    pairs = run_store.fresh(tx, run_id, STEP_BATCH)
    run = run_store.get(tx, run_id)
    counts = run.counts
    moved = []
    for before, attempt in pairs:
        after = machine.task_after(before, attempt)
        if after is not before:
            counts = machine.moved(counts, before, after)
            moved.append(after)
    after_run, _ = machine.step(run, machine.TasksMoved(counts=counts), now)
    seen = [attempt for _, attempt in pairs]
    return run_store.stepped(tx, after_run, moved, seen, more=len(pairs) == STEP_BATCH)
