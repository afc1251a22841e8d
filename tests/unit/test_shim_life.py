"""The life of an attempt as a dialogue: given events, expected commands and states."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.agent.shim.life import (
    Command,
    Contact,
    ContactLost,
    Draining,
    Ended,
    Event,
    Executed,
    Killing,
    KillTree,
    Limits,
    Looked,
    MainEnded,
    NoteOverdue,
    Opened,
    Pipes,
    Running,
    SignalTree,
    State,
    StopAsked,
    Stopping,
    Waiting,
    step,
    wake_at,
)

LIMITS = Limits(timeout_s=100, grace_s=10, drain_s=2, kill_s=5)
TERM = SignalTree(signal.SIGTERM)
STOP = StopAsked(signal.SIGTERM, "cancelled", 7)
STOP_NOW = StopAsked(signal.SIGKILL, "cancelled", 7)
BUSY = Looked(Pipes.OPEN, tree_empty=False)
OWING = Looked(Pipes.OWED, tree_empty=True)
CLOSED_WITH_SURVIVORS = Looked(Pipes.CLOSED, tree_empty=False)
OVER = Looked(Pipes.CLOSED, tree_empty=True)


def play(
    *events: tuple[float, Event], state: State | None = None, limits: Limits = LIMITS
) -> tuple[State, list[Command]]:
    """Feed events at their times; the last state and all commands."""
    now_state: State = Waiting() if state is None else state
    commands: list[Command] = []
    for now, event in events:
        now_state, more = step(now_state, event, now, limits)
        commands += more
    return now_state, commands


def test_a_process_that_ends_by_itself_needs_no_command() -> None:
    assert play((0, Opened()), (1, BUSY), (2, MainEnded()), (2, OVER)) == (Ended(None, False), [])


def test_a_timeout_asks_then_kills_and_keeps_its_reason() -> None:
    state, commands = play((0, Opened()), (99.9, BUSY), (100, BUSY))
    assert (state, commands) == (Stopping("timeout", 110), [NoteOverdue(), TERM])
    state, commands = play((109.9, BUSY), (110, BUSY), state=state)
    assert isinstance(state, Killing) and commands == [KillTree()]
    assert play((110, MainEnded()), (110, OVER), state=state) == (Ended("timeout", False), [])


def test_without_a_timeout_nothing_is_ever_overdue() -> None:
    state, commands = play((0, Opened()), (1e9, BUSY), limits=Limits())
    assert (state, commands) == (Running(None), [])
    assert wake_at(state) is None


def test_a_later_stop_gives_less_time_but_never_more() -> None:
    state, _ = play((0, Opened()), (1, STOP))
    assert state == Stopping("cancelled", 8)
    longer = StopAsked(signal.SIGTERM, "other", 100)
    assert play((2, longer), state=state) == (Stopping("cancelled", 8), [TERM])
    shorter = StopAsked(signal.SIGINT, "other", 1)
    assert play((2, shorter), state=state) == (
        Stopping("cancelled", 3),
        [SignalTree(signal.SIGINT)],
    )


@pytest.mark.parametrize("before", [(), ((1, STOP),)])
def test_a_stop_with_kill_kills_at_once(before: tuple[tuple[float, Event], ...]) -> None:
    state, commands = play((0, Opened()), *before, (2, STOP_NOW))
    assert isinstance(state, Killing) and commands[-1] == KillTree()
    assert state.reason == "cancelled"


@pytest.mark.parametrize(("event", "reason"), [(STOP, "cancelled"), (ContactLost(), "lost_after")])
def test_a_request_before_the_gate_kills_the_child_that_has_run_nothing(
    event: Event, reason: str
) -> None:
    state, commands = play((0, event), (0, Opened()))
    assert isinstance(state, Killing) and commands == [KillTree()]
    assert play((0, MainEnded()), (0, OVER), state=state) == (Ended(reason, False), [])


def test_lost_contact_asks_with_the_grace_of_the_order() -> None:
    assert play((0, Opened()), (5, ContactLost())) == (Stopping("lost_after", 15), [TERM])


def test_the_first_reason_stays() -> None:
    state, _ = play((0, Opened()), (1, STOP), (2, ContactLost()), (3, BUSY))
    assert state == Stopping("cancelled", 8)


def test_a_request_after_the_end_of_the_main_process_gives_no_reason() -> None:
    state, commands = play((0, Opened()), (1, MainEnded()), (1.5, STOP), (1.5, ContactLost()))
    assert (state, commands) == (Draining(None, 3, clear=True), [TERM])
    assert play((1.6, OVER), state=state) == (Ended(None, False), [])


def test_survivors_stay_and_are_waited_for_no_longer_than_the_drain() -> None:
    state, commands = play((0, Opened()), (1, MainEnded()), (2.9, BUSY))
    assert (state, commands) == (Draining(None, 3, clear=False), [])
    assert play((3, BUSY), state=state) == (Ended(None, False), [])
    assert play((1, CLOSED_WITH_SURVIVORS), state=state) == (Ended(None, False), [])


def test_survivors_are_killed_after_the_drain_when_they_may_not_stay() -> None:
    limits = Limits(kill_leftovers=True)
    state, commands = play(
        (0, Opened()), (1, MainEnded()), (1, CLOSED_WITH_SURVIVORS), limits=limits
    )
    assert (state, commands) == (Draining(None, 3, clear=True), [])
    state, commands = play((3, CLOSED_WITH_SURVIVORS), state=state, limits=limits)
    assert isinstance(state, Killing) and commands == [KillTree()]
    assert play((3.1, OVER), state=state, limits=limits) == (Ended(None, False), [])


def test_output_of_the_main_process_is_waited_for_however_long_the_disk_takes() -> None:
    state, _ = play((0, Opened()), (1, MainEnded()), (1000, OWING))
    assert state == Draining(None, 3, clear=False)
    assert play((1000, OVER), state=state) == (Ended(None, False), [])


def test_killing_is_repeated_with_growing_pauses_and_given_up() -> None:
    state, _ = play((0, Opened()), (0, STOP_NOW))
    now, rounds = 0.0, 1
    while isinstance(state, Killing):
        now = wake_at(state) or now
        state, more = step(state, BUSY, now, LIMITS)
        rounds += len(more)
    assert state == Ended("cancelled", kill_failed=True)
    assert now == 5
    assert 20 < rounds < 40


def test_given_up_killing_still_waits_for_output_that_the_disk_refuses() -> None:
    state, _ = play((0, Opened()), (0, STOP_NOW), (5, Looked(Pipes.OWED, tree_empty=False)))
    assert state == Draining("cancelled", 5, clear=False, kill_failed=True)
    assert play((9, STOP), (9, BUSY), state=state) == (Ended("cancelled", True), [])


EVENTS = st.one_of(
    st.sampled_from([Opened(), ContactLost(), MainEnded(), STOP, STOP_NOW]),
    st.builds(Looked, st.sampled_from(Pipes), st.booleans()),
)


@given(st.lists(st.tuples(st.floats(0, 3), EVENTS)), st.booleans())
def test_every_life_ends_once_the_tree_is_empty_and_the_output_is_written(
    story: list[tuple[float, Event]], kill_leftovers: bool
) -> None:
    limits = Limits(timeout_s=5, grace_s=1, kill_s=5, kill_leftovers=kill_leftovers)
    state: State = Waiting()
    now = 0.0
    for pause_s, event in story:
        now += pause_s
        before = state
        state, commands = step(state, event, now, limits)
        if isinstance(before, Ended):
            assert (state, commands) == (before, ())
        if getattr(before, "reason", None) is not None:
            assert getattr(state, "reason", None) == getattr(before, "reason", None)
        if isinstance(before, Draining | Killing) and before.reason is None:
            assert getattr(state, "reason", None) is None
    for event in (Opened(), MainEnded(), OVER):
        state, _ = step(state, event, now, limits)
    assert isinstance(state, Ended)


def test_a_contact_is_a_changed_mtime_in_any_direction() -> None:
    contact = Contact(100, 0.0)
    assert contact.seen(100, 5.0).changed_at == 0.0
    assert contact.seen(None, 5.0).changed_at == 0.0
    assert contact.seen(50, 5.0) == Contact(50, 5.0)
    assert contact.seen(500, 5.0) == Contact(500, 5.0)


# --- starts that take too long


def test_what_was_not_executed_in_time_is_killed() -> None:
    for opened in ((), ((1, Opened()),)):
        state, commands = play(*opened, (9, BUSY), (10, BUSY), state=Waiting(start_by=10))
        assert isinstance(state, Killing) and state.reason == "start_timeout"
        assert commands == [KillTree()]


def test_what_was_executed_in_time_has_no_limit_for_its_start() -> None:
    state, commands = play((1, Opened()), (2, Executed()), (20, BUSY), state=Waiting(start_by=10))
    assert (state, commands) == (Running(101), [])
