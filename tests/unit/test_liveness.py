"""What heartbeats say of a node: sessions, clones, and the ages at which it falls silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.liveness import (
    COPY_GONE_S,
    GONE_AFTER_S,
    REMEMBERED_SESSIONS,
    SILENT_AFTER_S,
    Sessions,
    beat,
    state,
)
from quarterdeck.core.model import Node
from quarterdeck.core.states import NodeState

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


def node(seen_s_ago: float | None, *, quarantined: bool = False) -> Node:
    return Node(
        id="n1",
        name="web1",
        public_key="U1",
        created_at=NOW,
        last_seen=None if seen_s_ago is None else NOW - timedelta(seconds=seen_s_ago),
        quarantined=quarantined,
    )


def after(*sessions: str) -> Sessions:
    present = Sessions()
    for session in sessions:
        present = beat(present, session)
    return present


def test_a_late_beat_of_a_first_session_does_not_shut_out_the_one_that_followed_it() -> None:
    first, second = "1" * 16, "2" * 16
    known = Sessions(current=second)  # of a server that has just come up
    late = beat(known, first, "", now=10.0)
    assert late.current == first, "a session that names none before it can't be told from a start"
    again = beat(late, second, first[:8], now=15.0)
    assert (again.current, again.replaced, again.cloned) == (second, (first,), True)
    assert beat(again, first, "", now=16.0).current == second
    alone = beat(again, second, first[:8], now=15.0 + COPY_GONE_S)
    assert (alone.current, alone.cloned) == (second, False)


def test_two_agents_whose_sessions_name_each_other_falsely_stay_two() -> None:
    one, other = "1" * 16, "2" * 16
    present = beat(Sessions(current=one), other, one[:8])
    for at in range(1, 40):
        name, before = ((one, other[:8]), (other, one[:8]))[at % 2]
        present = beat(present, name, before, now=float(at * 5))
        assert present.cloned or at == 1
    assert present.cloned


@pytest.mark.parametrize(
    ("seen_s_ago", "expected"),
    [
        (-5.0, NodeState.READY),
        (0.0, NodeState.READY),
        (SILENT_AFTER_S - 0.001, NodeState.READY),
        (SILENT_AFTER_S, NodeState.SILENT),
        (GONE_AFTER_S - 0.001, NodeState.SILENT),
        (GONE_AFTER_S, NodeState.GONE),
        (None, NodeState.GONE),
    ],
)
def test_the_age_of_the_last_beat_gives_the_state(
    seen_s_ago: float | None, expected: NodeState
) -> None:
    assert state(node(seen_s_ago), NOW) is expected


@pytest.mark.parametrize("seen_s_ago", [None, 0.0, 1000.0])
def test_quarantine_stands_above_the_age(seen_s_ago: float | None) -> None:
    assert state(node(seen_s_ago, quarantined=True), NOW) is NodeState.QUARANTINED


def test_the_first_session_replaces_nothing() -> None:
    assert after("a") == Sessions(current="a")


def test_further_beats_of_a_session_give_back_the_same_object() -> None:
    sessions = after("a")
    assert beat(sessions, "a") is sessions


def test_a_restarted_agent_is_not_a_clone() -> None:
    assert after("a", "b", "b", "c") == Sessions(current="c", replaced=("a", "b"))


def test_a_beat_of_a_replaced_session_shows_two_machines_with_one_identity() -> None:
    sessions = after("a", "b", "a")
    assert sessions.cloned
    assert sessions.current == "b"


def test_a_clone_stays_known_as_one() -> None:
    assert after("a", "b", "a", "b", "c").cloned


@given(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=40))
def test_memory_is_bounded_and_never_holds_the_present_session(story: list[str]) -> None:
    sessions = Sessions()
    for session in story:
        before, sessions = sessions, beat(sessions, session)
        assert len(sessions.replaced) <= REMEMBERED_SESSIONS
        assert sessions.current not in sessions.replaced
        assert sessions.cloned or not before.cloned
    if len(set(story)) == len(story):
        assert not sessions.cloned


def test_a_session_on_a_copy_of_the_state_is_found_at_its_first_beat() -> None:
    first = beat(beat(Sessions(), "a" * 16), "b" * 16, "a" * 8)
    assert (first.current, first.cloned) == ("b" * 16, False)
    copied = beat(first, "c" * 16, "a" * 8)
    assert (copied.current, copied.cloned) == ("b" * 16, True)
    again = beat(copied, "b" * 16, "a" * 8)
    assert again.cloned


def test_a_later_start_on_its_own_state_ends_the_quarantine_until_the_copy_beats() -> None:
    copied = beat(Sessions(current="b" * 16), "c" * 16, "a" * 8)
    later = beat(copied, "d" * 16, "a" * 8 + "b" * 8)
    assert (later.current, later.cloned) == ("d" * 16, False)
    assert beat(later, "c" * 16, "a" * 8).cloned


def test_a_quarantine_ends_when_the_other_was_only_a_late_beat() -> None:
    late = beat(after("a", "b"), "a", now=100.0)
    assert late.cloned
    assert beat(late, "b", now=100.0 + COPY_GONE_S - 1).cloned
    alone = beat(late, "b", now=100.0 + COPY_GONE_S)
    assert (alone.current, alone.cloned) == ("b", False)


def test_a_quarantine_stays_while_both_are_heard() -> None:
    sessions = after("a", "b", "a")
    for round_ in range(1, 40):
        sessions = beat(sessions, "b", now=round_ * 5.0)
        sessions = beat(sessions, "a", now=round_ * 5.0 + 1)
        assert sessions.cloned
