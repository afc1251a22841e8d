"""The machine of a run: from the counts of its tasks to what happens next.

A run is decided on counts, never on the list of its tasks, so a step costs the same for one node
and for ten thousand. `task_after` folds an attempt into its task, `moved` keeps the counts.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

import msgspec

from quarterdeck.core import plan
from quarterdeck.core.model import Attempt, Counts, Halt, OnLimit, Record, Run, Task
from quarterdeck.core.states import (
    RUN_MOVES,
    TASK_MOVES,
    AttemptState,
    Outcome,
    Phase,
    RunState,
    TaskState,
)


class TasksMoved(Record, frozen=True, kw_only=True):
    """Some tasks changed; `counts` are those of the run after it."""

    counts: Counts


class CancelAsked(Record, frozen=True, kw_only=True):
    """Somebody wants the run to stop: TERM the first time, KILL from the second on."""


class DeadlinePassed(Record, frozen=True, kw_only=True):
    """The time that the whole run was given is over."""


Event = TasksMoved | CancelAsked | DeadlinePassed


class StartTasks(Record, frozen=True, kw_only=True):
    """Queue the next pending tasks, so many; none lies before the position `first`."""

    first: int
    count: int


class StopTasks(Record, frozen=True, kw_only=True):
    """Ask every task that has not ended to stop."""

    signal: int


class SkipTasks(Record, frozen=True, kw_only=True):
    """End the pending tasks, and call off every attempt that has not begun."""

    reason: str


Command = StartTasks | StopTasks | SkipTasks

SIGTERM = 15
SIGKILL = 9
BY_HAND = "the run was cancelled"
TAKEN_OUT = "cancelled before it started"

BAD_OUTCOMES = (
    Outcome.KILL_FAILED,
    Outcome.START_TIMEOUT,
    Outcome.LOST,
    Outcome.FAILED,
    Outcome.TIMED_OUT,
    Outcome.CANCELLED,
    Outcome.SKIPPED,
)

# how an attempt may end, but a run is said to have failed then
ONLY_OF_ATTEMPTS = (Outcome.KILL_FAILED, Outcome.START_TIMEOUT)


def step(run: Run, event: Event, now: datetime) -> tuple[Run, tuple[Command, ...]]:
    """The run after the event, and what is to be done. An ended run never changes.

    The counts of the run that comes back are those after its commands are carried out, but for
    what stopped tasks come to.
    """
    if run.state is RunState.ENDED:
        return run, ()
    match event:
        case TasksMoved(counts=counts):
            return _progress(msgspec.structs.replace(run, counts=counts), now)
        case CancelAsked():
            asked = run.stop_asked + 1
            stop = StopTasks(signal=SIGTERM if asked == 1 else SIGKILL)
            stopping = msgspec.structs.replace(run, stop_asked=asked)
            return _stopped(stopping, Halt.CANCELLED, BY_HAND, stop, now)
        case DeadlinePassed():
            if run.halt is Halt.DEADLINE or run.stop_asked:
                return run, ()
            over = f"stopped at its deadline ({run.plan.deadline_s:g} s)"
            return _stopped(run, Halt.DEADLINE, over, StopTasks(signal=SIGTERM), now)
        case _ as never:
            assert_never(never)


def run_outcome(run: Run) -> Outcome:
    """How a run whose tasks have all ended came out."""
    counts = run.counts
    if counts.succeeded == counts.total:
        return Outcome.SUCCEEDED
    if run.stop_asked and (counts.cancelled or (run.halt is Halt.CANCELLED and counts.skipped)):
        return Outcome.CANCELLED
    if run.halt is Halt.DEADLINE:
        return Outcome.TIMED_OUT
    if run.halt in (Halt.LIMIT, Halt.CANARY):
        return Outcome.FAILED
    present = [kind for kind in BAD_OUTCOMES if getattr(counts, kind.value)]
    if len(present) == 1:
        only = present[0]
        if only is Outcome.SKIPPED:  # taken out by hand
            return Outcome.CANCELLED
        return Outcome.FAILED if only in ONLY_OF_ATTEMPTS else only
    return Outcome.FAILED


def task_after(
    task: Task, attempt: Attempt, *, halted: str = "", late: bool = False, again: bool = False
) -> Task:
    """The task as its newest attempt shows it; the same object when nothing changes.

    `again`: another attempt follows this one. `halted` is why its run starts nothing any more;
    `late`: that is its deadline, so what was stopped for it has run out of time.
    """
    if attempt.number < task.tries:
        return task
    match attempt.state:
        case AttemptState.PENDING:
            return task
        case AttemptState.STARTING | AttemptState.RUNNING | AttemptState.STOPPING:
            if TaskState.RUNNING not in TASK_MOVES[task.state]:
                return task
            return msgspec.structs.replace(task, state=TaskState.RUNNING, exit_code=None)
        case AttemptState.ENDED:
            return _task_ended(task, attempt, halted, late=late, again=again)
        case _ as never:
            assert_never(never)


def _task_ended(task: Task, attempt: Attempt, halted: str, *, late: bool, again: bool) -> Task:
    if TaskState.ENDED not in TASK_MOVES[task.state]:
        return task
    seen = attempt.snapshot
    assert seen is not None and seen.phase is Phase.ENDED
    if again:
        return msgspec.structs.replace(
            task, state=TaskState.RETRYING, exit_code=seen.exit_code, tries=attempt.number + 1
        )
    cancelled = attempt.outcome is Outcome.CANCELLED
    began = attempt.number > 1 or seen.accepted_at is not None or seen.started_at is not None
    outcome = attempt.outcome
    if halted and cancelled and not began:
        outcome = Outcome.SKIPPED
    elif late and cancelled:
        outcome = Outcome.TIMED_OUT
    return msgspec.structs.replace(
        task,
        state=TaskState.ENDED,
        outcome=outcome,
        exit_code=seen.exit_code,
        reason=halted if cancelled else task.reason,
    )


def task_at(task: Task, attempt: Attempt) -> Task:
    """The task as of one of its tries: a later one may be on another node."""
    if attempt.node_name in ("", task.node_name):
        return task
    return msgspec.structs.replace(task, node=attempt.node, node_name=attempt.node_name)


def withdrawn(task: Task) -> Task:
    """A pending task that somebody took out of its run before it started."""
    return msgspec.structs.replace(
        task, state=TaskState.ENDED, outcome=Outcome.SKIPPED, reason=TAKEN_OUT
    )


def moved(counts: Counts, before: Task, after: Task) -> Counts:
    """The counts after one task went from `before` to `after`."""
    changes = {_bucket(before): -1}
    changes[_bucket(after)] = changes.get(_bucket(after), 0) + 1
    return msgspec.structs.replace(
        counts, **{name: getattr(counts, name) + change for name, change in changes.items()}
    )


def _bucket(task: Task) -> str:
    if task.state is TaskState.ENDED:
        assert task.outcome is not None
        return task.outcome.value
    return task.state.value


def _move(run: Run, state: RunState) -> RunState:
    return state if state in RUN_MOVES[run.state] else run.state


def _progress(run: Run, now: datetime) -> tuple[Run, tuple[Command, ...]]:
    """The run after its counts have changed."""
    over = plan.crossed(run.plan, run.counts) if run.halt is None else None
    if over is not None:
        halt, reason = over
        if run.plan.on_limit is OnLimit.STOP:
            return _stopped(run, halt, reason, StopTasks(signal=SIGTERM), now)
        return _settled(_halted(run, halt, reason), now), (SkipTasks(reason=reason),)
    count = plan.room(run.plan, run.counts) if run.halt is None else 0
    if not count:
        return _settled(run, now), ()
    counts = run.counts
    start = StartTasks(first=plan.started(counts), count=count)
    queued = msgspec.structs.replace(
        counts, pending=counts.pending - count, queued=counts.queued + count
    )
    return _settled(msgspec.structs.replace(run, counts=queued), now), (start,)


def _stopped(
    run: Run, halt: Halt, reason: str, stop: StopTasks, now: datetime
) -> tuple[Run, tuple[Command, ...]]:
    stopping = msgspec.structs.replace(
        _halted(run, halt, reason), state=_move(run, RunState.STOPPING)
    )
    return _settled(stopping, now), (stop, SkipTasks(reason=stopping.reason))


def _halted(run: Run, halt: Halt, reason: str) -> Run:
    """Nothing starts any more. A deadline says more than the limit before it; a cancel does not."""
    counts = run.counts
    rest = msgspec.structs.replace(counts, pending=0, skipped=counts.skipped + counts.pending)
    if run.halt is not None and halt is not Halt.DEADLINE:
        halt, reason = run.halt, run.reason
    return msgspec.structs.replace(run, counts=rest, halt=halt, reason=reason)


def _settled(run: Run, now: datetime) -> Run:
    """The run in the state that its counts mean."""
    counts = run.counts
    if counts.ended == counts.total:
        return msgspec.structs.replace(
            run,
            state=RunState.ENDED,
            outcome=run_outcome(run),
            started_at=run.started_at or now,
            ended_at=now,
        )
    if counts.running or counts.retrying or counts.ended:
        return msgspec.structs.replace(
            run, state=_move(run, RunState.RUNNING), started_at=run.started_at or now
        )
    return run
