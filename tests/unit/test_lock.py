"""Locks as dialogues, and what holds after any of them."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.lock import (
    BEAT_S,
    GONE_AFTER_S,
    KILL_AFTER_S,
    LOOK_S,
    NEAR,
    TERM_AFTER_S,
    Asked,
    Claim,
    Event,
    FellSilent,
    LeaveAsked,
    Lock,
    Released,
    Who,
    check_name,
    concerned,
    find,
    look,
    silent,
    slots,
    standing,
    step,
)
from quarterdeck.errors import Invalid

NOW = datetime(2026, 1, 2, tzinfo=UTC)
EMPTY = Lock(namespace="default", name="db")


def claim(id: str, of: int = 1) -> Claim:
    return Claim(id=id, slots=of, who=Who(host="h", pid=1, user="u"), by="t", asked_at=NOW)


def after(*events: Event, lock: Lock = EMPTY) -> Lock:
    for event in events:
        lock = step(lock, event, NOW)
    return lock


def asked(*ids: str, of: int = 1) -> list[Event]:
    return [Asked(claim=claim(id, of)) for id in ids]


def holding(lock: Lock) -> list[str]:
    return [one.id for one in lock.holders]


def where(lock: Lock, id: str) -> str | None:
    found = standing(lock, id)
    return None if found is None else found.word


def test_the_first_gets_the_slot_the_others_wait_in_the_order_in_which_they_asked() -> None:
    lock = after(*asked("a", "b", "c"))
    assert holding(lock) == ["a"]
    assert [where(lock, id) for id in "abc"] == ["holding", "1", "2"]
    lock = after(Released(id="a"), lock=lock)
    assert holding(lock) == ["b"] and where(lock, "c") == "1"


def test_so_many_hold_it_as_it_has_slots() -> None:
    lock = after(*asked("a", "b", "c", of=2))
    assert holding(lock) == ["a", "b"]
    assert holding(after(Released(id="a"), lock=lock)) == ["b", "c"]


def test_who_does_not_queue_leaves_no_trace_when_there_is_no_room() -> None:
    lock = after(*asked("a"))
    assert after(Asked(claim=claim("b"), queue=False), lock=lock) == lock
    assert holding(after(Asked(claim=claim("b"), queue=False))) == ["b"]


def test_who_does_not_queue_does_not_overtake() -> None:
    lock = after(*asked("a", "b", of=1))
    assert after(Asked(claim=claim("c", 5), queue=False), lock=lock) == lock


def test_a_repeat_changes_nothing_and_what_is_over_twice_is_over_once() -> None:
    lock = after(*asked("a", "b"))
    assert after(*asked("b", "a"), lock=lock) == lock
    gone = after(Released(id="a"), lock=lock)
    assert after(Released(id="a"), LeaveAsked(id="a"), lock=gone) == gone


def test_among_different_numbers_of_slots_the_smallest_of_the_holders_counts() -> None:
    lock = after(*asked("two", of=2), *asked("five", "more", of=5))
    assert holding(lock) == ["two", "five"] and slots(lock) == 2
    assert holding(after(Released(id="two"), lock=lock)) == ["five", "more"]


def test_who_shares_with_fewer_than_there_are_waits_and_is_not_overtaken() -> None:
    lock = after(*asked("a", "b", of=3), *asked("alone"), *asked("c", of=3))
    assert holding(lock) == ["a", "b"]
    lock = after(Released(id="a"), lock=lock)
    assert holding(lock) == ["b"], "c would fit, but alone is before it"
    lock = after(Released(id="b"), lock=lock)
    assert holding(lock) == ["alone"]


def test_a_step_wakes_whom_it_moved_and_the_first_of_the_queue_not_a_thousand() -> None:
    lock = after(*asked("a", *(f"w{n}" for n in range(1000))))
    gone = after(Released(id="a"), lock=lock)
    assert concerned(lock, gone) == ["a", "w0", *(f"w{n}" for n in range(1, 1 + NEAR))]
    told = after(LeaveAsked(id="a"), lock=lock)
    assert concerned(lock, told) == ["a"] and where(told, "a") == "leaving"
    later = after(*asked("late"), lock=lock)
    assert concerned(lock, later) == [] and where(later, "late") == "1001"
    assert where(gone, "a") is None


def test_a_silent_claim_goes_only_with_the_beat_that_was_seen() -> None:
    lock = after(*asked("a", "b"))
    beaten = msgspec.structs.replace(lock.claims[0], beat=7)
    lock = msgspec.structs.replace(lock, claims=(beaten, lock.claims[1]))
    assert after(FellSilent(id="a", beat=6), lock=lock) == lock
    assert holding(after(FellSilent(id="a", beat=7), lock=lock)) == ["b"]


def test_a_holder_that_is_told_to_leave_keeps_its_slot_until_it_has_left() -> None:
    lock = after(*asked("a", "b"), LeaveAsked(id="a"))
    assert holding(lock) == ["a"] and lock.holders[0].leaving
    assert holding(after(Released(id="a"), lock=lock)) == ["b"]
    waiting = after(*asked("a", "b"), LeaveAsked(id="b"))
    assert find(waiting, "b") is None


def test_the_command_is_killed_before_its_slot_is_given_away() -> None:
    assert 2 * BEAT_S < TERM_AFTER_S < KILL_AFTER_S < GONE_AFTER_S


def test_a_claim_is_silent_after_the_same_beat_for_the_whole_time_of_one_that_looks() -> None:
    heard = look({}, [("a", 1), ("b", 1)], 100.0, looked_at=100.0)
    for now in range(101, 120):
        heard = look(heard, [("a", 1), ("b", now)], float(now), looked_at=now - LOOK_S)
        assert not silent(heard["a"], float(now))
    heard = look(heard, [("a", 1), ("b", 9)], 120.0, looked_at=119.0)
    assert silent(heard["a"], 120.0) and not silent(heard["b"], 120.0)


def test_a_server_that_could_not_look_gives_every_claim_its_time_anew() -> None:
    heard = look({}, [("a", 1)], 100.0, looked_at=100.0)
    heard = look(heard, [("a", 1)], 160.0, looked_at=100.0)
    assert not silent(heard["a"], 160.0)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "..", "x" * 129, "a\n"])
def test_what_can_not_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="can't be the name of a lock"):
        check_name(name)


IDS = st.sampled_from("abcdefgh")
EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda id, of, queue: Asked(claim=claim(id, of), queue=queue),
            IDS,
            st.integers(1, 4),
            st.booleans(),
        ),
        st.builds(lambda id: Released(id=id), IDS),
        st.builds(lambda id, beat: FellSilent(id=id, beat=beat), IDS, st.integers(0, 1)),
        st.builds(lambda id: LeaveAsked(id=id), IDS),
    ),
    max_size=40,
)


@given(EVENTS)
def test_nobody_ever_shares_with_more_than_it_agreed_to_and_nobody_overtakes(
    events: list[Event],
) -> None:
    lock = EMPTY
    for event in events:
        before, lock = lock, step(lock, event, NOW)
        assert all(len(lock.holders) <= one.slots for one in lock.holders)
        tickets = [one.ticket for one in lock.claims]
        assert tickets == sorted(set(tickets))
        started = {one.id for one in lock.holders} - {one.id for one in before.holders}
        waiting = [one.ticket for one in lock.waiters]
        first = min(waiting, default=lock.next_ticket)
        assert all(one.ticket < first for one in lock.holders if one.id in started)
        if lock.waiters:
            assert len(lock.holders) >= min(
                [lock.waiters[0].slots, *(one.slots for one in lock.holders)]
            ), "a slot is free and the first of the queue waits"


@given(EVENTS)
def test_whoever_waits_is_served_once_those_before_it_have_gone(events: list[Event]) -> None:
    lock = after(*events)
    queue = [one.id for one in lock.waiters]
    served = []
    while lock.claims:
        gone = lock.holders[0].id
        lock = step(lock, Released(id=gone), NOW)
        served += [id for id in queue if id in holding(lock) and id not in served]
    assert served == queue
