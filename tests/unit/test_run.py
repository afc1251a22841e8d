"""The machine of a run: counts, ends, outcomes and cancelling."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.core.model import Attempt, Counts, Order, Run, Snapshot, Task
from quarterdeck.core.run import (
    CancelAsked,
    Command,
    SkipTasks,
    StopTasks,
    TasksMoved,
    moved,
    run_outcome,
    step,
    task_after,
)
from quarterdeck.core.states import (
    RUN_MOVES,
    TASK_MOVES,
    AttemptState,
    Outcome,
    Phase,
    RunState,
    TaskState,
)

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
LATER = datetime(2031, 5, 6, 8, 8, 9, tzinfo=UTC)
ID = "0123456789abcdef"

thorough = settings(max_examples=200)


def new_run(tasks: int) -> Run:
    """A run whose tasks are all queued, as one without limits is from the beginning."""
    return Run(
        id=ID,
        target="all",
        order=Order(argv=("true",)),
        created_at=NOW,
        created_by="t",
        counts=Counts(total=tasks, queued=tasks),
    )


def new_task(position: int) -> Task:
    return Task(
        id=f"{ID}-{position}",
        run=ID,
        position=position,
        node="n",
        node_name="n",
        state=TaskState.QUEUED,
    )


def try_of(task: Task, state: AttemptState, outcome: Outcome | None = None) -> Attempt:
    ended = state is AttemptState.ENDED
    return Attempt(
        id=f"{task.id}-1",
        run=task.run,
        task=task.id,
        node=task.node,
        number=1,
        state=state,
        outcome=outcome,
        snapshot=Snapshot(
            attempt=f"{task.id}-1", revision=3, phase=Phase.ENDED, exit_code=7, accepted_at=NOW
        )
        if ended
        else None,
    )


def buckets(counts: Counts) -> int:
    values = msgspec.structs.asdict(counts)
    return sum(value for name, value in values.items() if name != "total")


def ended_with(**counts: int) -> Run:
    """A run of so many tasks per outcome, after the last of them."""
    total = sum(counts.values())
    after, commands = step(new_run(total), TasksMoved(counts=Counts(total=total, **counts)), NOW)
    assert commands == ()
    return after


def test_a_run_starts_with_its_first_task_and_ends_with_its_last() -> None:
    run, _ = step(new_run(2), TasksMoved(counts=Counts(total=2, queued=2)), NOW)
    assert (run.state, run.started_at) == (RunState.PENDING, None)
    run, _ = step(run, TasksMoved(counts=Counts(total=2, queued=1, running=1)), NOW)
    assert (run.state, run.started_at, run.ended_at) == (RunState.RUNNING, NOW, None)
    run, _ = step(run, TasksMoved(counts=Counts(total=2, running=1, succeeded=1)), LATER)
    assert (run.state, run.started_at, run.outcome) == (RunState.RUNNING, NOW, None)
    run, _ = step(run, TasksMoved(counts=Counts(total=2, succeeded=2)), LATER)
    assert (run.state, run.outcome, run.ended_at) == (RunState.ENDED, Outcome.SUCCEEDED, LATER)


def test_a_run_over_no_node_ends_at_once_and_well() -> None:
    run, commands = step(new_run(0), TasksMoved(counts=Counts()), NOW)
    assert (run.state, run.outcome, commands) == (RunState.ENDED, Outcome.SUCCEEDED, ())


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"succeeded": 3}, Outcome.SUCCEEDED),
        ({"succeeded": 2, "failed": 1}, Outcome.FAILED),
        ({"failed": 3}, Outcome.FAILED),
        ({"timed_out": 3}, Outcome.TIMED_OUT),
        ({"succeeded": 2, "timed_out": 1}, Outcome.TIMED_OUT),
        ({"lost": 1}, Outcome.LOST),
        ({"succeeded": 2, "lost": 1}, Outcome.LOST),
        ({"cancelled": 2}, Outcome.CANCELLED),
        ({"succeeded": 1, "cancelled": 1}, Outcome.CANCELLED),
        ({"kill_failed": 1}, Outcome.FAILED),
        ({"failed": 1, "timed_out": 1}, Outcome.FAILED),
        ({"timed_out": 1, "lost": 1}, Outcome.FAILED),
        ({"succeeded": 1, "cancelled": 1, "lost": 1, "timed_out": 1}, Outcome.FAILED),
    ],
)
def test_the_counts_give_the_outcome(counts: dict[str, int], expected: Outcome) -> None:
    assert ended_with(**counts).outcome is expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"cancelled": 2}, Outcome.CANCELLED),
        ({"succeeded": 1, "cancelled": 1}, Outcome.CANCELLED),
        ({"succeeded": 1, "failed": 1, "cancelled": 1}, Outcome.CANCELLED),
        ({"succeeded": 2}, Outcome.SUCCEEDED),
        ({"succeeded": 1, "failed": 1}, Outcome.FAILED),
    ],
)
def test_a_cancel_that_hit_something_decides_the_outcome(
    counts: dict[str, int], expected: Outcome
) -> None:
    total = sum(counts.values())
    run, _ = step(new_run(total), CancelAsked(), NOW)
    run, _ = step(run, TasksMoved(counts=Counts(total=total, **counts)), NOW)
    assert run.outcome is expected


def test_cancel_asks_with_term_first_and_with_kill_from_the_second_time_on() -> None:
    run = new_run(2)
    asked: list[Command] = []
    for _ in range(3):
        run, commands = step(run, CancelAsked(), NOW)
        asked += commands
    stops = [command for command in asked if isinstance(command, StopTasks)]
    assert [stop.signal for stop in stops] == [15, 9, 9]
    assert set(asked) - set(stops) == {SkipTasks(reason="the run was cancelled")}
    assert (run.state, run.stop_asked) == (RunState.STOPPING, 3)


def test_a_stopping_run_stays_so_while_tasks_still_move() -> None:
    run, _ = step(new_run(2), CancelAsked(), NOW)
    run, _ = step(run, TasksMoved(counts=Counts(total=2, running=1, cancelled=1)), NOW)
    assert (run.state, run.outcome) == (RunState.STOPPING, None)


def test_an_ended_run_gives_back_itself_for_every_event() -> None:
    run = ended_with(succeeded=1)
    for event in (CancelAsked(), TasksMoved(counts=Counts(total=1, failed=1))):
        same, commands = step(run, event, LATER)
        assert same is run and commands == ()


def test_a_task_takes_the_outcome_and_exit_code_of_its_attempt() -> None:
    task = new_task(0)
    assert task_after(task, try_of(task, AttemptState.PENDING)) is task
    for state in (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.STOPPING):
        assert task_after(task, try_of(task, state)).state is TaskState.RUNNING
    ended = task_after(task, try_of(task, AttemptState.ENDED, Outcome.FAILED))
    assert (ended.state, ended.outcome, ended.exit_code) == (TaskState.ENDED, Outcome.FAILED, 7)


def test_what_was_stopped_for_the_deadline_of_its_run_has_timed_out() -> None:
    task = new_task(0)
    begun = try_of(task, AttemptState.ENDED, Outcome.CANCELLED)
    assert begun.snapshot is not None
    stopped = msgspec.structs.replace(
        begun, snapshot=msgspec.structs.replace(begun.snapshot, accepted_at=None)
    )
    late = task_after(task, begun, halted="at its deadline", late=True)
    assert (late.outcome, late.reason) == (Outcome.TIMED_OUT, "at its deadline")
    assert task_after(task, begun, halted="by a person").outcome is Outcome.CANCELLED
    assert task_after(task, stopped, halted="x", late=True).outcome is Outcome.SKIPPED
    itself = try_of(task, AttemptState.ENDED, Outcome.FAILED)
    assert task_after(task, itself, halted="x", late=True).outcome is Outcome.FAILED


def test_an_ended_task_gives_back_itself() -> None:
    task = new_task(0)
    ended = task_after(task, try_of(task, AttemptState.ENDED, Outcome.FAILED))
    for state in (AttemptState.PENDING, AttemptState.RUNNING):
        assert task_after(ended, try_of(task, state)) is ended
    assert task_after(ended, try_of(task, AttemptState.ENDED, Outcome.SUCCEEDED)) is ended


def test_counts_stay_as_they_are_when_a_task_stays_where_it_is() -> None:
    counts = Counts(total=1, queued=1)
    assert moved(counts, new_task(0), new_task(0)) == counts


def test_a_run_that_ends_in_one_step_has_a_start() -> None:
    assert ended_with(succeeded=1).started_at == NOW


# ---- properties

showings = st.tuples(st.sampled_from(AttemptState), st.sampled_from(Outcome))
facts = st.tuples(st.integers(0, 3), showings)
actions = st.lists(st.one_of(facts, facts, facts, st.none()), max_size=25)  # None: a cancel


@thorough
@given(st.integers(1, 4), actions)
def test_counts_add_up_and_the_run_ends_exactly_with_its_last_task(
    total: int, story: list[tuple[int, tuple[AttemptState, Outcome]] | None]
) -> None:
    run, tasks = new_run(total), [new_task(position) for position in range(total)]
    for action in story:
        before = run
        if action is None:
            run, commands = step(run, CancelAsked(), NOW)
            assert bool(commands) == (before.state is not RunState.ENDED)
        else:
            position, (state, outcome) = action[0] % total, action[1]
            task = tasks[position]
            ended = state is AttemptState.ENDED
            after = task_after(task, try_of(task, state, outcome if ended else None))
            assert after.state is task.state or after.state in TASK_MOVES[task.state]
            tasks[position] = after
            run, commands = step(run, TasksMoved(counts=moved(run.counts, task, after)), NOW)
            assert commands == ()
        assert buckets(run.counts) == run.counts.total == total
        assert run.counts.ended == sum(task.state is TaskState.ENDED for task in tasks)
        assert (run.state is RunState.ENDED) == all(t.state is TaskState.ENDED for t in tasks)
        assert (run.outcome is not None) == (run.state is RunState.ENDED)
        assert run.state is before.state or run.state in RUN_MOVES[before.state]
        assert before.state is not RunState.ENDED or run is before


@thorough
@given(st.lists(st.sampled_from(Outcome), min_size=1, max_size=6), st.booleans())
def test_a_run_succeeds_exactly_when_all_its_tasks_do(
    outcomes: list[Outcome], cancelled: bool
) -> None:
    counts = Counts(total=len(outcomes), **{o.value: outcomes.count(o) for o in set(outcomes)})
    run = msgspec.structs.replace(
        new_run(len(outcomes)), counts=counts, stop_asked=int(cancelled), state=RunState.ENDED
    )
    result = run_outcome(run)
    assert (result is Outcome.SUCCEEDED) == (set(outcomes) == {Outcome.SUCCEEDED})
    assert result is not Outcome.KILL_FAILED
