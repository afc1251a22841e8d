"""What people ask of single tasks of a run: a signal while it runs, a stop of one of them.

Both are desired state in the attempt's row; dispatch brings them to the node. A request is named by
a key or a number, so that asking again after a broken connection asks once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from quarterdeck.control.moves import Moves
from quarterdeck.control.observe import Fleet
from quarterdeck.control.steady import Steady
from quarterdeck.control.step import Stepped, Times, step_run, withdraw, write_guarded
from quarterdeck.core import attempt as machine
from quarterdeck.core.model import Attempt, Run, Task
from quarterdeck.core.run import SIGKILL, SIGTERM, TAKEN_OUT
from quarterdeck.core.states import AttemptState, TaskState
from quarterdeck.core.target import resolved
from quarterdeck.core.traced import check_no_trace
from quarterdeck.errors import Conflict, NotFound
from quarterdeck.service import Clock
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx

MOST_SIGNALS = 100
NAMED = 8


class WantedSignal(msgspec.Struct, frozen=True, kw_only=True):
    """One request: `node` (name or id) or `target` narrow it to some tasks; `key` names it."""

    signal: int
    tree: bool = False
    node: str | None = None
    target: str | None = None
    key: str


Pair = tuple[Attempt, Attempt]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a request comes to: the tasks it means, their attempts before and after, and a task that
    is taken out of its run before it started."""

    meant: list[Task] = []
    pairs: list[Pair] = []
    withdrawn: Task | None = None


class Requests:
    """What the API calls."""

    def __init__(
        self, *, database: Database, fleet: Fleet, clock: Clock, steady: Steady, moves: Moves
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._clock = clock
        self._steady = steady
        self._moves = moves

    async def signal(self, run_id: str, wanted: WantedSignal) -> tuple[Run, list[Task]]:
        """Send a signal to the running tasks that are meant, once; the tasks that get it.

        Raises NotFound for a run or task that is not there, Conflict when none of them runs.
        """
        asked = machine.SignalAsked(signal=wanted.signal, tree=wanted.tree, key=wanted.key)

        def change(
            run: Run, tasks: list[Task], newest: dict[str, Attempt], now: datetime
        ) -> Change:
            meant = self._meant(run, tasks, wanted.node, wanted.target, now)
            running = [task for task in meant if _takes(newest.get(task.id), wanted.key)]
            if not running:
                raise Conflict("not_running", _not_running(run, meant, newest))
            full = [t for t in running if len(newest[t.id].signals) >= MOST_SIGNALS]
            if full:
                raise Conflict(
                    "too_many_signals",
                    f"The task on {full[0].node_name} was sent {MOST_SIGNALS} signals already, "
                    "which is the most that is kept: start it anew to send more.",
                )
            attempts = [newest[task.id] for task in running]
            pairs = [(a, machine.step(a, asked, now)) for a in attempts]
            return Change(meant=running, pairs=pairs)

        return await self._write(run_id, change)

    async def cancel(self, run_id: str, node: str, *, nth: int | None = None) -> Run:
        """Ask the task on one node to stop: TERM the first time, KILL when asked again.

        One whose turn has not come yet is skipped; the run goes on without it.
        """

        def change(
            run: Run, tasks: list[Task], newest: dict[str, Attempt], now: datetime
        ) -> Change:
            (task,) = self._meant(run, tasks, node, None, now)
            attempt = newest.get(task.id)
            if task.state is TaskState.PENDING:
                return Change(meant=[task], withdrawn=task)
            if nth is not None and attempt is None and task.reason == TAKEN_OUT:
                return Change()
            if attempt is None or attempt.state is AttemptState.ENDED:
                raise Conflict("task_ended", _not_running(run, [task], newest))
            if nth is not None and attempt.stops >= nth:
                return Change()
            number = SIGKILL if attempt.stops else SIGTERM
            stop = machine.StopAsked(signal=number)
            return Change(meant=[task], pairs=[(attempt, machine.step(attempt, stop, now))])

        run, _ = await self._write(run_id, change)
        return run

    async def _write(
        self,
        run_id: str,
        change: Callable[[Run, list[Task], dict[str, Attempt], datetime], Change],
    ) -> tuple[Run, list[Task]]:
        def write(tx: Tx) -> tuple[Stepped, list[Task]]:
            now = self._clock.now()
            times = Times(now, self._steady.now())
            run = run_store.get(tx, run_store.find(tx, run_id))
            check_no_trace(run)
            tasks = run_store.tasks_of(tx, run.id)
            attempts = sorted(run_store.attempts_of(tx, run.id), key=lambda each: each.number)
            newest = {attempt.task: attempt for attempt in attempts}
            wanted = change(run, tasks, newest, now)
            if wanted.withdrawn is not None:
                return withdraw(tx, run.id, wanted.withdrawn, times), wanted.meant
            if not wanted.pairs:
                return Stepped(run=run), wanted.meant
            run_store.save_attempts(tx, wanted.pairs, now)
            stepped = step_run(tx, run.id, times)
            pairs = (*wanted.pairs, *stepped.pairs)
            return msgspec.structs.replace(stepped, pairs=pairs), wanted.meant

        stepped, meant = await write_guarded(self._database, write)
        self._moves.steps([stepped])
        return stepped.run, meant

    def _meant(
        self, run: Run, tasks: list[Task], node: str | None, target: str | None, now: datetime
    ) -> list[Task]:
        """The tasks that a request names. Raises NotFound, and Conflict for a name of several."""
        hit = None
        if target is not None:
            hit = {found.id for found in resolved(target, self._fleet.every(), now).nodes}
        found = [
            task
            for task in tasks
            if (node is None or node in (task.node_name, task.node))
            and (hit is None or task.node in hit)
        ]
        what = " and ".join(
            part for part in (node and f"on {node!r}", target and f"in {target!r}") if part
        )
        if not found:
            names = ", ".join(sorted({task.node_name for task in tasks})[:NAMED]) or "no task"
            raise NotFound("task_not_found", f"Run {run.id} has no task {what}; it has: {names}.")
        if node is not None and len(found) > 1:
            raise Conflict(
                "ambiguous_node",
                f"Run {run.id} went to several nodes named {node!r}: say which by id.",
            )
        return found


def _takes(attempt: Attempt | None, key: str) -> bool:
    """Whether a task can be signalled, or was by this very request."""
    if attempt is None:
        return False
    return machine.takes_signals(attempt) or any(one.key == key for one in attempt.signals)


def _not_running(run: Run, meant: list[Task], newest: dict[str, Attempt]) -> str:
    task = meant[0]
    attempt = newest.get(task.id)
    if len(meant) > 1:
        return f"None of the {len(meant)} tasks of run {run.id} that are meant runs now."
    if task.state is not TaskState.ENDED and (attempt is None or attempt.snapshot is None):
        return f"The task of run {run.id} on {task.node_name} has not started yet: try again."
    outcome = task.outcome or "its output is still being collected"
    return f"The task of run {run.id} on {task.node_name} has already ended: {outcome}."
