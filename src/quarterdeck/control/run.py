"""Runs as a service: create, cancel, look at; and the loops that step runs nobody else steps.

Whoever commits facts steps their runs in the same transaction (control/step.py). `step_due` catches
what a crash left due, `keep_deadlines` tells runs that their time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import msgspec

from quarterdeck.control.lease import DEADLINES, DUE, Leases
from quarterdeck.control.moves import UNPLACED, Moves
from quarterdeck.control.observe import Fleet
from quarterdeck.control.steady import Steady
from quarterdeck.control.step import Stepped, Times, queued, step_run, write_guarded
from quarterdeck.core import liveness
from quarterdeck.core import run as machine
from quarterdeck.core.fold import natural
from quarterdeck.core.ids import task_id
from quarterdeck.core.label import effective
from quarterdeck.core.model import Attempt, Counts, Node, Order, Pick, PickBy, Plan, Run, Task
from quarterdeck.core.place import has_number, takes_orders
from quarterdeck.core.states import RunState
from quarterdeck.core.target import resolved, suggest
from quarterdeck.core.traced import check_no_trace
from quarterdeck.errors import Conflict, Invalid, NotFound, Unavailable
from quarterdeck.service import Clock, Poke
from quarterdeck.store import run as run_store
from quarterdeck.store import step as step_store
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import RunCreated, Telemetry

DUE_TICK_S = 2.0
SHOWN = 200
DEADLINE_TICK_S = 0.5
AT_ONCE = 100


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. A run made from another names it as `parent`; with `nodes` (ids) it
    goes to these, not to what the target hits now; of a pick they are a part of its count, and only
    the rest is chosen."""

    target: str
    order: Order
    title: str = ""
    created_by: str
    namespace: str = "default"
    plan: Plan = Plan()
    labels: Mapping[str, str] = {}
    key: str | None = None
    allow_empty: bool = False
    origin: str = "run"
    parent: str | None = None
    nodes: tuple[str, ...] = ()


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
        begin: Callable[[Order, Sequence[Attempt]], None],
        place: Poke,
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
        self._begin = begin
        self._place = place
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
        self._begin(run.order, attempts)
        if new.plan.pick is not None:
            self._place(UNPLACED)
        return run

    def _nodes(self, new: NewRun) -> list[Node]:
        full = self._room()
        if full:
            raise Unavailable("disk_full", full)
        if new.nodes:
            return self._enrolled(new.nodes)
        now, every = self._clock.now(), self._fleet.every()
        hits = resolved(new.target, every, now)
        if not hits.nodes and not new.allow_empty:
            hint = suggest(hits.tree, every, now)
            raise Invalid(
                "no_target",
                f"The target {new.target[:SHOWN]!r} hits no node. {hint.text}",
                position=hint.position,
            )
        check_pick(new.plan.pick, new.target, hits.nodes)
        return sorted(hits.nodes, key=lambda node: natural(node.name))  # as lists show them

    def is_enrolled(self, node_id: str) -> bool:
        """Whether a node belongs to the fleet now."""
        return self._find(node_id) is not None

    def _find(self, node_id: str) -> Node | None:
        try:
            node = self._fleet.get(node_id)
        except NotFound:
            return None
        return None if node.removed else node

    def _enrolled(self, ids: Sequence[str]) -> list[Node]:
        """Those that belong to the fleet. Raises Conflict when none does."""
        found = [node for node in map(self._find, ids) if node is not None]
        if not found:
            raise Conflict(
                "node_removed",
                "None of the nodes that this would go to is enrolled any more: use "
                "`qd clone RUN -t TARGET` to say where the order is to go.",
            )
        return found

    async def order(self, run_id: str) -> tuple[Run, Order]:
        """A run with its order. Raises NotFound."""

        def read(tx: Tx) -> tuple[Run, Order]:
            run = run_store.get(tx, run_store.find(tx, run_id))
            return run, run_store.orders_of(tx, [run.id])[run.id]

        return await self._database.read(read)

    async def named(self, text: str, by: Principal) -> str:
        """The id of the run that a text names, among those that `by` sees. Raises NotFound, and
        Conflict when it names several."""
        find = partial(run_store.find, text=text, namespace=by.namespace)
        return await self._database.read(find)

    async def _known(self, new: NewRun) -> str | None:
        key = new.key
        if key is None:
            return None
        return await self._database.read(lambda tx: run_store.by_key(tx, key))

    async def _same(self, run_id: str, new: NewRun) -> Run:
        run = await self.get(run_id)
        orders = await self._database.read(lambda tx: run_store.orders_of(tx, [run_id]))
        there = (orders[run_id], run.target, run.plan, run.namespace)
        if there != (new.order, new.target, new.plan, new.namespace):
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
        """Runs, newest first. Raises NotFound when `before` names no run."""

        def read(tx: Tx) -> list[Run]:
            if which.before is None:
                return run_store.page(tx, which)
            before = run_store.find(tx, which.before, which.namespace)
            return run_store.page(tx, msgspec.structs.replace(which, before=before))

        return await self._database.read(read)

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

        def write(tx: Tx) -> Stepped:
            run = run_store.get(tx, run_store.find(tx, run_id))
            check_no_trace(run)
            if run.state is RunState.ENDED:
                raise Conflict("run_ended", f"Run {run.id} has already ended: {run.outcome}.")
            if nth is not None and run.stop_asked >= nth:
                return Stepped(run=run)
            return step_run(tx, run.id, self._times(), machine.CancelAsked())

        stepped = await write_guarded(self._database, write)
        self._moves.steps([stepped])
        return stepped.run

    async def step_due(self) -> None:
        """Loop: step runs that a crash left due (duty of one server). Waits for a tick only."""
        while True:
            await asyncio.sleep(DUE_TICK_S)
            if not self._leases.holds(DUE):
                continue
            for run in await self._database.read(lambda tx: step_store.due_runs(tx, AT_ONCE)):
                step = partial(step_run, run_id=run, times=self._times())
                self._moves.steps([await write_guarded(self._database, step)])

    async def keep_deadlines(self) -> None:
        """Loop: stop runs whose time is over (duty of one server). Waits for a tick only."""
        while True:
            await asyncio.sleep(DEADLINE_TICK_S)
            if not self._leases.holds(DEADLINES):
                continue
            now = self._steady.now()
            late = partial(step_store.overdue_runs, now=now, limit=AT_ONCE)
            for run in await self._database.read(late):
                over = machine.DeadlinePassed()
                step = partial(step_run, run_id=run, times=self._times(), event=over)
                self._moves.steps([await write_guarded(self._database, step)])

    def _times(self) -> Times:
        return Times(self._clock.now(), self._steady.now())

    def _rows(self, new: NewRun, nodes: list[Node]) -> tuple[Run, list[Task], list[Attempt]]:
        """The run with its tasks, and attempts for those of the first window."""
        now, steady = self._clock.now(), self._steady.now()
        id = self._new_id()
        pick = new.plan.pick
        tasks = _tasks(id, nodes, now) if pick is None or new.nodes else []
        if pick is not None:
            tasks += _unplaced(id, len(tasks), pick.count)
        deadline_s = new.plan.deadline_s
        run = Run(
            id=id,
            target=new.target,
            order=new.order,
            created_at=now,
            created_by=new.created_by,
            namespace=new.namespace,
            origin=new.origin,
            parent=new.parent,
            title=new.title,
            labels=new.labels,
            plan=new.plan,
            deadline_at=steady + timedelta(seconds=deadline_s) if deadline_s else None,
            counts=Counts(total=len(tasks), pending=len(tasks)),
        )
        run, commands = machine.step(run, machine.TasksMoved(counts=run.counts), now)
        count = sum(c.count for c in commands if isinstance(c, machine.StartTasks))
        ready = {node.id for node in nodes if takes_orders(node, now)}
        first = queued(run, tasks[:count], lambda id: id not in ready, steady)
        rows = [task for task, _ in first] + tasks[count:]
        return run, rows, [attempt for _, attempt in first]


def check_pick(pick: Pick | None, target: str, hits: Sequence[Node]) -> None:
    """Raises Invalid when a target has too few nodes to choose from."""
    if pick is None:
        return
    if pick.count > len(hits):
        raise Invalid(
            "pick",
            f"Of {target[:SHOWN]!r} {pick.count} nodes are to be picked, but it hits only "
            f"{len(hits)}: pick fewer, or widen the target.",
        )
    if pick.by is PickBy.LABEL:
        counted = sum(has_number(effective(node).get(pick.label, "")) for node in hits)
        if counted < pick.count:
            raise Invalid(
                "pick",
                f"{pick.count} nodes are to be picked by label {pick.label!r}, but only "
                f"{counted} of those that the target hits have a number there: label them "
                "(`qd node label`), or pick by another figure.",
            )


def _tasks(run: str, nodes: list[Node], now: datetime) -> list[Task]:
    return [
        Task(
            id=task_id(run, at),
            run=run,
            position=at,
            node=node.id,
            node_name=node.name,
            node_state=liveness.state(node, now).value,
        )
        for at, node in enumerate(nodes)
    ]


def _unplaced(run: str, first: int, end: int) -> list[Task]:
    """Tasks of a pick: their nodes are chosen when they start (control/place.py)."""
    return [
        Task(id=task_id(run, at), run=run, position=at, node=UNPLACED, node_name="")
        for at in range(first, end)
    ]
