"""The machine of a run: from the counts of its tasks to what happens next.

A run is decided on counts, never on the list of its tasks, so a step costs the same for one node
and for ten thousand. `task_after` folds an attempt into its task, `moved` keeps the counts.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

import msgspec

from quarterdeck.core.model import Attempt, Counts, Record, Run, Task
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


Event = TasksMoved | CancelAsked


class StopTasks(Record, frozen=True, kw_only=True):
    """Ask every task that has not ended to stop."""

    signal: int


Command = StopTasks

SIGTERM = 15
SIGKILL = 9

BAD_OUTCOMES = (
    Outcome.KILL_FAILED,
    Outcome.START_TIMEOUT,
    Outcome.LOST,
    Outcome.FAILED,
    Outcome.TIMED_OUT,
    Outcome.CANCELLED,
)

# how an attempt may end, but a run is said to have failed then
ONLY_OF_ATTEMPTS = (Outcome.KILL_FAILED, Outcome.START_TIMEOUT)


def step(run: Run, event: Event, now: datetime) -> tuple[Run, tuple[Command, ...]]:
    """The run after the event, and what is to be done. An ended run never changes."""
    if run.state is RunState.ENDED:
        return run, ()
    match event:
        case TasksMoved(counts=counts):
            return _progress(run, counts, now), ()
        case CancelAsked():
            asked = run.stop_asked + 1
            signal = SIGTERM if asked == 1 else SIGKILL
            stopping = msgspec.structs.replace(
                run, stop_asked=asked, state=_move(run, RunState.STOPPING)
            )
            return stopping, (StopTasks(signal=signal),)
        case _ as never:
            assert_never(never)


def run_outcome(run: Run) -> Outcome:
    """How a run whose tasks have all ended came out."""
    counts = run.counts
    if counts.succeeded == counts.total:
        return Outcome.SUCCEEDED
    if run.stop_asked and counts.cancelled:
        return Outcome.CANCELLED
    present = [kind for kind in BAD_OUTCOMES if getattr(counts, kind.value)]
    if len(present) == 1:
        only = present[0]
        return Outcome.FAILED if only in ONLY_OF_ATTEMPTS else only
    return Outcome.FAILED


def task_after(task: Task, attempt: Attempt) -> Task:
    """The task as its newest attempt shows it; the same object when nothing changes."""
    match attempt.state:
        case AttemptState.PENDING:
            return task
        case AttemptState.STARTING | AttemptState.RUNNING | AttemptState.STOPPING:
            if TaskState.RUNNING not in TASK_MOVES[task.state]:
                return task
            return msgspec.structs.replace(task, state=TaskState.RUNNING)
        case AttemptState.ENDED:
            if TaskState.ENDED not in TASK_MOVES[task.state]:
                return task
            assert attempt.snapshot is not None and attempt.snapshot.phase is Phase.ENDED
            return msgspec.structs.replace(
                task,
                state=TaskState.ENDED,
                outcome=attempt.outcome,
                exit_code=attempt.snapshot.exit_code,
            )
        case _ as never:
            assert_never(never)


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


def _progress(run: Run, counts: Counts, now: datetime) -> Run:
    after = msgspec.structs.replace(run, counts=counts)
    if counts.ended == counts.total:
        return msgspec.structs.replace(
            after,
            state=RunState.ENDED,
            outcome=run_outcome(after),
            started_at=run.started_at or now,
            ended_at=now,
        )
    if counts.running or counts.ended:
        return msgspec.structs.replace(
            after, state=_move(after, RunState.RUNNING), started_at=run.started_at or now
        )
    return after
