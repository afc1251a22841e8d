"""Limits, canary and deadline of a run: dialogues, and what holds whatever the tasks come to."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.core.model import Amount, Counts, Halt, OnLimit, Order, Plan, Run
from quarterdeck.core.plan import (
    amount_text,
    crossed,
    failures,
    of_total,
    parse_amount,
    room,
    window,
)
from quarterdeck.core.run import (
    CancelAsked,
    Command,
    DeadlinePassed,
    SkipTasks,
    StartTasks,
    StopTasks,
    TasksMoved,
    step,
)
from quarterdeck.core.states import Outcome, RunState
from quarterdeck.errors import Invalid

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

thorough = settings(max_examples=400)


def new_run(total: int, **plan: object) -> Run:
    return Run(
        id="0123456789abcdef",
        target="all",
        order=Order(argv=("true",)),
        created_at=NOW,
        created_by="t",
        plan=Plan(**plan),  # type: ignore[arg-type]
        counts=Counts(total=total, pending=total),
    )


def begun(total: int, **plan: object) -> tuple[Run, tuple[Command, ...]]:
    run = new_run(total, **plan)
    return step(run, TasksMoved(counts=run.counts), NOW)


def after(run: Run, **changes: int) -> tuple[Run, tuple[Command, ...]]:
    """The run after tasks went from one count to another."""
    counts = {name: getattr(run.counts, name) + by for name, by in changes.items()}
    return step(run, TasksMoved(counts=msgspec.structs.replace(run.counts, **counts)), NOW)


# ---- amounts


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        ("3", 10, 3),
        ("20%", 10, 2),
        ("29%", 100, 29),
        ("0.29%", 10_000, 29),
        ("33.3%", 10, 3),
        ("19.9%", 10, 1),
        ("100%", 7, 7),
        ("0%", 7, 0),
        ("2,10%", 10, 1),
        ("2,10%", 100, 2),
        ("10%,2", 100, 2),
    ],
)
def test_a_percentage_is_rounded_down_and_the_smaller_of_both_counts(
    text: str, total: int, expected: int
) -> None:
    assert of_total(parse_amount(text, "x"), total) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.5", "%", "101%", "1,2", "1%,2%", "1,", "1,2%,3", "1e3", "10 0"]
)
def test_what_is_no_amount_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Invalid, match=r"max_failures: .*\."):
        parse_amount(text, "max_failures")


@given(
    st.one_of(st.none(), st.integers(0, 9_999_999)),
    st.one_of(st.none(), st.integers(0, 100_000).map(lambda n: n / 1000)),
)
def test_an_amount_is_read_as_it_is_written(count: int | None, percent: float | None) -> None:
    amount = Amount(count=count, percent=percent)
    if amount != Amount():
        assert parse_amount(amount_text(amount), "x") == amount


def test_a_window_has_room_for_one_at_least_and_for_all_without_a_limit() -> None:
    assert window(Plan(max_parallel=Amount(percent=5.0)), 3) == 1
    assert window(Plan(max_parallel=Amount(count=0)), 3) == 1
    assert window(Plan(), 10_000) == 10_000


# ---- dialogues


def test_without_a_plan_all_tasks_start_at_once() -> None:
    run, commands = begun(3)
    assert commands == (StartTasks(first=0, count=3),)
    assert run.counts == Counts(total=3, queued=3)
    assert run.state is RunState.PENDING


def test_the_window_is_refilled_as_tasks_end() -> None:
    run, commands = begun(5, max_parallel=Amount(count=2))
    assert commands == (StartTasks(first=0, count=2),)
    run, commands = after(run, queued=-2, running=+2)
    assert commands == ()
    run, commands = after(run, running=-1, succeeded=+1)
    assert commands == (StartTasks(first=2, count=1),)
    run, commands = after(run, running=-1, queued=-1, failed=+2)
    assert commands == (StartTasks(first=3, count=2),)
    run, commands = after(run, queued=-2, succeeded=+2)
    assert (commands, run.state, run.outcome) == ((), RunState.ENDED, Outcome.FAILED)


def test_a_task_that_waits_for_its_next_try_keeps_its_place() -> None:
    run, _ = begun(3, max_parallel=Amount(count=1))
    run, commands = after(run, queued=-1, retrying=+1)
    assert (commands, run.state) == ((), RunState.RUNNING)


def test_the_third_failure_crosses_a_limit_of_two_and_the_rest_is_skipped() -> None:
    run, _ = begun(20, max_parallel=Amount(count=3), max_failures=Amount(count=2))
    run, commands = after(run, queued=-3, running=1, failed=2)
    assert commands == (StartTasks(first=3, count=2),)
    run, commands = after(run, running=-1, failed=1)
    reason = "stopped after 3 failures (limit 2)"
    assert commands == (SkipTasks(reason=reason),)
    assert (run.halt, run.reason, run.state) == (Halt.LIMIT, reason, RunState.RUNNING)
    assert run.counts == Counts(total=20, queued=2, failed=3, skipped=15)
    run, commands = after(run, queued=-2, succeeded=2)
    assert (commands, run.state, run.outcome) == ((), RunState.ENDED, Outcome.FAILED)


def test_none_tolerated_stops_at_the_first_failure() -> None:
    run, _ = begun(3, max_parallel=Amount(count=1), max_failures=Amount(count=0))
    run, commands = after(run, queued=-1, lost=1)
    assert commands == (SkipTasks(reason="stopped after 1 failure (limit 0)"),)
    assert (run.outcome, run.counts.skipped) == (Outcome.FAILED, 2)


def test_on_limit_stop_stops_what_runs_too() -> None:
    run, _ = begun(4, max_parallel=Amount(count=2), max_failures=Amount(count=0), on_limit=STOP)
    run, commands = after(run, queued=-2, running=1, timed_out=1)
    reason = "stopped after 1 failure (limit 0)"
    assert commands == (StopTasks(signal=15), SkipTasks(reason=reason))
    assert run.state is RunState.STOPPING
    run, commands = after(run, running=-1, cancelled=1)
    assert (commands, run.outcome) == ((), Outcome.FAILED)


def test_a_cancelled_task_is_no_failure() -> None:
    assert failures(Counts(total=9, succeeded=1, cancelled=2, skipped=1, failed=1, lost=4)) == 5
    plan = Plan(max_failures=Amount(count=0))
    assert crossed(plan, Counts(total=2, pending=1, cancelled=1)) is None


def test_the_canaries_come_alone_and_the_others_when_all_of_them_succeeded() -> None:
    run, commands = begun(6, canary=2)
    assert commands == (StartTasks(first=0, count=2),)
    run, commands = after(run, queued=-1, succeeded=1)
    assert commands == ()
    run, commands = after(run, queued=-1, succeeded=1)
    assert commands == (StartTasks(first=2, count=4),)
    run, commands = after(run, queued=-1, failed=1)
    assert (commands, run.halt) == ((), None)


def test_the_canaries_keep_to_the_window() -> None:
    run, commands = begun(6, canary=3, max_parallel=Amount(count=2))
    assert commands == (StartTasks(first=0, count=2),)
    run, commands = after(run, queued=-2, succeeded=2)
    assert commands == (StartTasks(first=2, count=1),)
    run, commands = after(run, queued=-1, succeeded=1)
    assert commands == (StartTasks(first=3, count=2),)


def test_a_canary_that_fails_halts_the_run_also_within_the_failures_allowed() -> None:
    run, _ = begun(6, canary=2, max_failures=Amount(count=3))
    run, commands = after(run, queued=-1, failed=1)
    reason = "stopped because the first 2 tasks did not all succeed"
    assert commands == (SkipTasks(reason=reason),)
    assert (run.halt, run.counts.skipped) == (Halt.CANARY, 4)
    run, _ = after(run, queued=-1, succeeded=1)
    assert run.outcome is Outcome.FAILED


def test_more_canaries_than_tasks_are_all_tasks() -> None:
    run, commands = begun(2, canary=5)
    assert commands == (StartTasks(first=0, count=2),)
    run, commands = after(run, queued=-2, succeeded=2)
    assert run.outcome is Outcome.SUCCEEDED


def test_a_deadline_stops_what_runs_and_skips_the_rest() -> None:
    run, _ = begun(4, max_parallel=Amount(count=2), deadline_s=600.0)
    run, _ = after(run, queued=-2, running=2)
    run, commands = step(run, DeadlinePassed(), NOW)
    reason = "stopped at its deadline (600 s)"
    assert commands == (StopTasks(signal=15), SkipTasks(reason=reason))
    assert (run.state, run.halt, run.counts.skipped) == (RunState.STOPPING, Halt.DEADLINE, 2)
    assert step(run, DeadlinePassed(), NOW) == (run, ())
    run, _ = after(run, running=-2, cancelled=1, succeeded=1)
    assert run.outcome is Outcome.TIMED_OUT


def test_a_deadline_that_hits_nothing_begun_ends_the_run() -> None:
    run = new_run(2, deadline_s=1.0)
    run, _ = step(run, DeadlinePassed(), NOW)
    assert (run.state, run.outcome, run.counts.skipped) == (
        RunState.ENDED,
        Outcome.TIMED_OUT,
        2,
    )


def test_a_deadline_after_a_cancel_asks_nothing_more() -> None:
    run, _ = begun(2, deadline_s=1.0)
    run, _ = step(run, CancelAsked(), NOW)
    assert step(run, DeadlinePassed(), NOW) == (run, ())


def test_a_cancel_skips_what_is_pending() -> None:
    run, _ = begun(5, max_parallel=Amount(count=2))
    run, commands = step(run, CancelAsked(), NOW)
    assert commands == (StopTasks(signal=15), SkipTasks(reason="the run was cancelled"))
    assert run.counts == Counts(total=5, queued=2, skipped=3)
    run, _ = after(run, queued=-2, skipped=2)
    assert (run.state, run.outcome) == (RunState.ENDED, Outcome.CANCELLED)


def test_a_pending_task_that_is_taken_out_neither_halts_canaries_nor_counts_as_one() -> None:
    run, _ = begun(5, canary=2)
    run, commands = after(run, pending=-1, skipped=1)
    assert (commands, run.halt) == ((), None)
    run, commands = after(run, queued=-2, succeeded=2)
    assert commands == (StartTasks(first=2, count=2),)
    run, _ = after(run, queued=-2, succeeded=2)
    assert run.outcome is Outcome.CANCELLED


# ---- properties

STOP = OnLimit.STOP
amounts = st.one_of(
    st.none(),
    st.builds(Amount, count=st.integers(0, 6)),
    st.builds(Amount, percent=st.integers(0, 100).map(float)),
    st.builds(Amount, count=st.integers(0, 6), percent=st.integers(0, 100).map(float)),
)
plans = st.builds(
    Plan,
    max_parallel=amounts,
    max_failures=amounts,
    on_limit=st.sampled_from(OnLimit),
    canary=st.integers(0, 8),
)
ENDS = ("succeeded", "failed", "timed_out", "lost", "kill_failed", "cancelled")
moves = st.tuples(st.sampled_from(("queued", "running", "retrying")), st.sampled_from(ENDS))
stories = st.lists(
    st.one_of(
        moves,
        st.sampled_from((("queued", "running"), ("running", "retrying"), ("retrying", "running"))),
        st.sampled_from((CancelAsked(), DeadlinePassed(), ("pending", "skipped"))),
    ),
    max_size=60,
)


def told(run: Run, story: object) -> tuple[Run, tuple[Command, ...]]:
    """The run after a part of a story; itself when no task is where the part begins."""
    if isinstance(story, CancelAsked | DeadlinePassed):
        return step(run, story, NOW)
    assert isinstance(story, tuple)
    origin, goal = story
    if not getattr(run.counts, origin):
        return run, ()
    return after(run, **{origin: -1, goal: +1})


def watched(before: Run, run: Run, commands: tuple[Command, ...]) -> int:
    """What holds at every step; how many tasks started in it."""
    counts, plan = run.counts, run.plan
    parts = [v for name, v in msgspec.structs.asdict(counts).items() if name != "total"]
    assert sum(parts) == counts.total and min(parts) >= 0
    starts = [command for command in commands if isinstance(command, StartTasks)]
    assert len(starts) <= 1
    started = sum(command.count for command in starts)
    if started:
        assert counts.active <= window(plan, counts.total)
        assert run.halt is None and crossed(plan, counts) is None
        taken_out = run.counts.skipped
        assert starts[0].first == counts.total - counts.pending - started - taken_out
    assert before.halt is None or not starts
    assert (run.halt is None) or counts.pending == 0
    assert (run.halt is not None and before.halt is None) <= any(
        isinstance(command, SkipTasks) for command in commands
    )
    assert (run.state is RunState.ENDED) == (counts.ended == counts.total)
    return started


@thorough
@given(st.integers(0, 12), plans, stories)
def test_never_too_many_at_once_never_a_start_after_the_limit_and_always_an_end(
    total: int, plan: Plan, story: list[object]
) -> None:
    before = new_run(total)
    before = msgspec.structs.replace(before, plan=plan)
    run, commands = step(before, TasksMoved(counts=before.counts), NOW)
    started = watched(before, run, commands)
    for part in story:
        before = run
        run, commands = told(run, part)
        started += watched(before, run, commands)
        if run.counts.succeeded < plan.canary:
            assert started <= plan.canary, "only canaries start before all of them succeeded"
    for _ in range(2 * total + 1):  # whatever is under way ends: then so does the run
        for origin in ("queued", "running", "retrying"):
            if getattr(run.counts, origin):
                before = run
                run, commands = told(run, (origin, "succeeded"))
                started += watched(before, run, commands)
    assert run.state is RunState.ENDED
    assert started + run.counts.skipped == total


@thorough
@given(st.integers(1, 30), plans, st.lists(st.sampled_from(ENDS[:5]), min_size=30, max_size=30))
def test_exactly_one_failure_too_many_is_needed_and_no_task_is_skipped_without_it(
    total: int, plan: Plan, ends: list[str]
) -> None:
    plan = msgspec.structs.replace(plan, canary=0, max_parallel=Amount(count=1))
    before = msgspec.structs.replace(new_run(total), plan=plan)
    run, _ = step(before, TasksMoved(counts=before.counts), NOW)
    limit = total if plan.max_failures is None else of_total(plan.max_failures, total)
    for end in ends[:total]:
        if run.state is RunState.ENDED:
            break
        run, _ = told(run, ("queued", end))
    failed = failures(run.counts)
    assert run.state is RunState.ENDED
    assert failed <= limit + 1
    assert (run.halt is Halt.LIMIT) == (failed > limit)
    assert run.counts.skipped == 0 or run.halt is Halt.LIMIT


@given(plans, st.integers(0, 12), st.integers(0, 12))
def test_a_run_that_is_not_halted_and_has_nothing_under_way_may_start_something(
    plan: Plan, total: int, succeeded: int
) -> None:
    done = min(total, succeeded)
    counts = Counts(total=total, pending=total - done, succeeded=done)
    assert (room(plan, counts) > 0) == (counts.pending > 0)
