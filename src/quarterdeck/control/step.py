"""The step that turns facts into progress: a unit of work in the transaction of the facts.

It loads what changed, folds it into tasks and counts, lets the pure machine decide (core/run.py),
and carries out what was decided: the next tasks get attempts, failed ones their next try, what has
not begun is called off, what runs is asked to stop. What that changes is folded again, until
nothing is left. The guard is the version of the run: of several servers that step it one writes,
and the others load and decide again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar, assert_never

import msgspec

from quarterdeck.core import attempt as attempt_machine
from quarterdeck.core import liveness, retry
from quarterdeck.core import run as machine
from quarterdeck.core.ids import attempt_id
from quarterdeck.core.model import Attempt, Halt, Node, Plan, Run, Task
from quarterdeck.core.place import Spread, open_slots, takes_orders
from quarterdeck.core.states import TaskState
from quarterdeck.core.target import resolve
from quarterdeck.errors import Conflict, Invalid
from quarterdeck.service import Backoff, jitter
from quarterdeck.store import node as node_store
from quarterdeck.store import run as run_store
from quarterdeck.store import step as step_store
from quarterdeck.store.base import Database, StaleWrite, Tx

T = TypeVar("T")

STEP_BATCH = 2000
TRIES = 12
FIRST_PAUSE_S = 0.01
MAX_PAUSE_S = 0.5


class Stepped(msgspec.Struct, frozen=True, kw_only=True):
    """What a step came to: the run, attempts that it changed, nodes that got new ones."""

    run: Run
    pairs: tuple[tuple[Attempt, Attempt], ...] = ()
    nodes: frozenset[str] = frozenset()


async def write_guarded(database: Database, unit: Callable[[Tx], T]) -> T:
    """Write a unit; on a stale guard (another server was quicker) load and decide again."""
    backoff = Backoff(FIRST_PAUSE_S, MAX_PAUSE_S)
    for _ in range(TRIES - 1):
        try:
            return await database.write(unit)
        except StaleWrite:
            await asyncio.sleep(backoff.wait_s())
    return await database.write(unit)


class Times(msgspec.Struct, frozen=True):
    """One moment: `now` for records, `steady` for what is compared later (control/steady.py)."""

    now: datetime
    steady: datetime


def step_run(tx: Tx, run_id: str, times: Times, event: machine.Event | None = None) -> Stepped:
    """Tell a run an event, then fold changed attempts into tasks, counts and the run."""
    step = _Step(tx, run_store.get(tx, run_id), times)
    if event is not None:
        step.take(event)
    while step.fold():
        pass
    return Stepped(run=step.run, pairs=tuple(step.pairs), nodes=frozenset(step.nodes))


def withdraw(tx: Tx, run_id: str, task: Task, times: Times) -> Stepped:
    """Take a pending task out of its run; the others go on. Raises Conflict when its turn came."""
    step = _Step(tx, run_store.get(tx, run_id), times)
    while step.fold():  # what is left of a crash, so that nothing starts with the step below
        pass
    next_ones = step_store.pending_from(tx, run_id, task.position, 1)
    if [one.id for one in next_ones] != [task.id]:
        raise Conflict(
            "task_starting", f"The task of run {run_id} on {task.node_name} just starts: ask again."
        )
    after = machine.withdrawn(task)
    event = machine.TasksMoved(counts=machine.moved(step.run.counts, task, after))
    step.take(event, {task.id: after})
    while step.fold():
        pass
    return Stepped(run=step.run, pairs=tuple(step.pairs), nodes=frozenset(step.nodes))


def queued(
    run: Run, tasks: Iterable[Task], away: Callable[[str], bool], steady: datetime
) -> list[tuple[Task, Attempt]]:
    """Tasks that start now, each with its first attempt; `away`: the node takes no orders now."""
    return [
        (
            msgspec.structs.replace(task, state=TaskState.QUEUED, tries=1),
            next_attempt(run.plan, task, 1, steady, away=away(task.node)),
        )
        for task in tasks
    ]


def next_attempt(
    plan: Plan,
    task: Task,
    number: int,
    steady: datetime,
    *,
    away: bool,
    wait_s: float | None = None,
) -> Attempt:
    """An attempt that waits for its time, and then as long as the plan says for its node. A node
    that is there gets a moment at least."""
    known_away = away and task.node  # a pick has no node yet
    ttl_s = plan.offline_ttl_s if known_away else max(plan.offline_ttl_s, liveness.SILENT_AFTER_S)
    begins = steady + timedelta(seconds=wait_s or 0.0)
    return Attempt(
        id=attempt_id(task.id, number),
        run=task.run,
        task=task.id,
        node=task.node,
        node_name=task.node_name,
        number=number,
        priority=plan.priority,
        not_before=None if wait_s is None else begins,
        offer_until=begins + timedelta(seconds=ttl_s),
    )


class _Step:
    """One step of one run."""

    def __init__(self, tx: Tx, run: Run, times: Times) -> None:
        self.run = run
        self.pairs: list[tuple[Attempt, Attempt]] = []
        self.nodes: set[str] = set()
        self._tx = tx
        self._now = times.now
        self._steady = times.steady
        self._elsewhere: tuple[dict[str, Node], Spread] | None = None

    def fold(self) -> bool:
        """Fold what changed; whether that changed more."""
        changed = step_store.fresh(self._tx, self.run.id, STEP_BATCH)
        moved: dict[str, Task] = {}
        tries: list[Attempt] = []
        counts = self.run.counts
        for before, attempt in changed:
            after, following = self._task_after(before, attempt)
            if after is not before:
                counts = machine.moved(counts, before, after)
                moved[after.id] = after
            tries += following
        run_store.add_attempts(self._tx, tries)
        self.nodes |= {attempt.node for attempt in tries}
        seen = [attempt for _, attempt in changed]
        event = machine.TasksMoved(counts=counts)
        return self.take(event, moved, seen, more=len(changed) == STEP_BATCH)

    def take(
        self,
        event: machine.Event,
        moved: dict[str, Task] | None = None,
        seen: Sequence[Attempt] = (),
        *,
        more: bool = False,
    ) -> bool:
        """Let the machine decide, write, and carry out; whether attempts were changed by it."""
        after, commands = machine.step(self.run, event, self._now)
        rows = dict(moved or {})
        for command in commands:
            if isinstance(command, machine.StartTasks):
                rows |= self._start(after, command)
        self.run = step_store.stepped(self._tx, after, list(rows.values()), seen, more=more)
        changed = [self._carry_out(command) for command in commands]
        return any(changed)

    def _carry_out(self, command: machine.Command) -> bool:
        match command:
            case machine.StartTasks():
                return False  # written with the step
            case machine.StopTasks(signal=signal):
                stop = attempt_machine.StopAsked(signal=signal)
                return self._tell(step_store.to_stop(self._tx, self.run.id), stop)
            case machine.SkipTasks(reason=reason):
                step_store.skip_pending(self._tx, self.run, reason)
                unbegun = step_store.to_stop(self._tx, self.run.id, begun=False)
                return self._tell(unbegun, attempt_machine.CalledOff())
            case _ as never:
                assert_never(never)

    def _tell(self, attempts: list[Attempt], event: attempt_machine.Event) -> bool:
        pairs = [(a, attempt_machine.step(a, event, self._now)) for a in attempts]
        self.pairs += pairs
        return bool(run_store.save_attempts(self._tx, pairs, self._now))

    def _start(self, run: Run, command: machine.StartTasks) -> dict[str, Task]:
        tasks = step_store.pending_from(self._tx, run.id, command.first, command.count)
        nodes = self._nodes(task.node for task in tasks)
        made = queued(run, tasks, lambda id: self._away(nodes.get(id)), self._steady)
        run_store.add_attempts(self._tx, [attempt for _, attempt in made])
        self.nodes |= {attempt.node for _, attempt in made}
        return {task.id: task for task, _ in made}

    def _task_after(self, task: Task, attempt: Attempt) -> tuple[Task, list[Attempt]]:
        """A task after its attempt has changed, and the attempt that follows, if any."""
        run = self.run
        if (
            run.halt is None
            and attempt.number == task.tries
            and retry.is_due(run.plan.retry, attempt)
        ):
            node = self._node_for(task)
            if node is not None or self._is_placed_anew():
                after = machine.task_after(task, attempt, again=True)
                id, name = ("", "") if node is None else (node.id, node.name)
                after = msgspec.structs.replace(after, node=id, node_name=name)
                wait_s = retry.wait_s(run.plan.retry, attempt.number, jitter())
                following = next_attempt(
                    run.plan,
                    after,
                    attempt.number + 1,
                    self._steady,
                    away=self._away(node),
                    wait_s=wait_s,
                )
                return after, [following]
        late = run.halt is Halt.DEADLINE
        return machine.task_after(task, attempt, halted=run.reason, late=late), []

    def _node_for(self, task: Task) -> Node | None:
        """Where a task is tried again; None when its node was removed and it may not move, or when
        it is to be placed."""
        if self._is_placed_anew():
            return None
        if self.run.plan.retry.elsewhere:
            if self._elsewhere is None:
                self._elsewhere = self._others()
            nodes, spread = self._elsewhere
            other = spread.next(task.node)
            if other is not None:
                return nodes[other]
        node = self._nodes([task.node]).get(task.node)
        return None if node is None or node.removed else node

    def _others(self) -> tuple[dict[str, Node], Spread]:
        """Where tasks may go that are tried elsewhere; read once for a step."""
        try:
            hit = resolve(self.run.target, node_store.every(self._tx), self._now)
        except (Conflict, Invalid):  # a plain name that several nodes have by now
            hit = []
        nodes = {node.id: node for node in hit if open_slots(node, self._now)}
        held = run_store.open_counts(self._tx)
        return nodes, Spread((held.get(id, 0), id) for id in nodes)

    def _is_placed_anew(self) -> bool:
        return self.run.plan.pick is not None and self.run.plan.retry.elsewhere

    def _nodes(self, ids: Iterable[str]) -> dict[str, Node]:
        return {node.id: node for node in node_store.some(self._tx, ids)}

    def _away(self, node: Node | None) -> bool:
        return node is None or not takes_orders(node, self._now)
