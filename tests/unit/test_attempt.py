"""The machine of one attempt: dialogues of events and records, and one property per invariant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.core.attempt import (
    Dropped,
    Event,
    NodeRemoved,
    OfferExpired,
    Reported,
    Sealed,
    StopAsked,
    TurnedDown,
    Vanished,
    log_length,
    outcome,
    step,
)
from quarterdeck.core.model import Attempt, Reason, Snapshot, StreamEnd, Wanted
from quarterdeck.core.states import ATTEMPT_MOVES, AttemptState, Outcome, Phase

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
ID = "0123456789abcdef-0-1"
FRESH = Attempt(id=ID, run=ID[:16], task=ID[:18], node="nabc", number=1)
SENT = msgspec.structs.replace(FRESH, offered=True)
OUTPUT = StreamEnd(bytes=5, sha256="00" * 32)

thorough = settings(max_examples=300)


def snap(revision: int, phase: Phase, **fields: Any) -> Snapshot:
    return Snapshot(attempt=ID, revision=revision, phase=phase, **fields)


def said(revision: int, phase: Phase, **fields: Any) -> Reported:
    return Reported(snapshot=snap(revision, phase, **fields))


def after(*events: Event, start: Attempt = SENT) -> Attempt:
    for turn, event in enumerate(events):
        start = step(start, event, NOW + timedelta(seconds=turn))
    return start


ACCEPTED = said(1, Phase.ACCEPTED)
RUNNING = said(2, Phase.RUNNING)
STOPPING = said(3, Phase.STOPPING, stops=1)
GOOD = said(4, Phase.ENDED, exit_code=0, cached=True, stdout=OUTPUT)
UNREADABLE = said(4, Phase.ENDED, exit_code=0, cached=False, stdout=OUTPUT)
STOP = StopAsked(signal=15)


# ---- dialogues


def test_an_attempt_is_accepted_runs_ends_is_sealed_and_forgotten() -> None:
    steps: list[Event] = [ACCEPTED, RUNNING, GOOD, Sealed(), Dropped()]
    seen = [after(*steps[: count + 1]) for count in range(len(steps))]
    assert [a.state.value for a in seen] == ["starting", "running", "ended", "ended", "ended"]
    assert [a.wanted.value for a in seen] == ["run", "run", "run", "forget", "forget"]
    assert [a.sealed for a in seen] == [False, False, False, True, True]
    assert [a.released for a in seen] == [False, False, False, False, True]
    assert seen[-1].outcome is Outcome.SUCCEEDED


def test_a_first_fact_may_be_any_phase() -> None:
    assert after(RUNNING).state is AttemptState.RUNNING
    assert after(STOPPING).state is AttemptState.STOPPING
    assert after(GOOD).state is AttemptState.ENDED


def test_what_is_reported_was_offered_even_when_the_row_did_not_say_so() -> None:
    assert after(ACCEPTED, start=FRESH).offered


def test_an_older_or_repeated_revision_gives_back_the_same_object() -> None:
    running = after(ACCEPTED, RUNNING)
    for event in (ACCEPTED, RUNNING, said(2, Phase.STOPPING)):
        assert step(running, event, NOW) is running


def test_an_end_is_the_last_word_even_from_a_directory_that_lost_a_fact() -> None:
    ended = step(after(ACCEPTED, RUNNING), said(2, Phase.ENDED, cached=True), NOW)
    assert ended.state is AttemptState.ENDED


def test_an_end_without_output_is_shown_at_once() -> None:
    ended = after(RUNNING, said(3, Phase.ENDED, exit_code=3))
    assert (ended.state, ended.outcome) == (AttemptState.ENDED, Outcome.FAILED)


def test_an_end_whose_log_can_not_be_read_yet_is_shown_when_it_is_sealed() -> None:
    waiting = after(RUNNING, UNREADABLE)
    assert (waiting.state, waiting.outcome) == (AttemptState.RUNNING, None)
    sealed = step(waiting, Sealed(), NOW)
    assert (sealed.state, sealed.outcome) == (AttemptState.ENDED, Outcome.SUCCEEDED)
    assert sealed.sealed and sealed.wanted is Wanted.FORGET


def test_an_end_is_shown_when_a_repeat_says_that_its_log_can_be_read() -> None:
    shown = after(RUNNING, UNREADABLE, said(5, Phase.ENDED, exit_code=1, cached=True))
    assert (shown.state, shown.outcome) == (AttemptState.ENDED, Outcome.SUCCEEDED)
    assert shown.snapshot == GOOD.snapshot


def test_a_log_is_not_sealed_before_the_end_is_known() -> None:
    for attempt in (FRESH, SENT, after(RUNNING)):
        assert step(attempt, Sealed(), NOW) is attempt


def test_a_stop_before_the_offer_ends_the_attempt_here_and_now() -> None:
    ended = step(FRESH, STOP, NOW)
    assert (ended.state, ended.outcome) == (AttemptState.ENDED, Outcome.CANCELLED)
    assert ended.sealed and ended.released and ended.wanted is Wanted.FORGET
    assert ended.snapshot is not None
    assert ended.snapshot.ended_at == NOW and ended.snapshot.exit_code is None


def test_a_stop_after_the_offer_only_changes_what_is_wanted() -> None:
    stopped = step(SENT, STOP, NOW)
    assert stopped.state is AttemptState.PENDING
    assert (stopped.wanted, stopped.stops, stopped.stop_signal) == (Wanted.STOP, 1, 15)
    killed = step(stopped, StopAsked(signal=9), NOW)
    assert (killed.wanted, killed.stops, killed.stop_signal) == (Wanted.STOP, 2, 9)


def test_a_stop_of_an_ended_or_forgotten_attempt_changes_nothing() -> None:
    for attempt in (after(GOOD), after(GOOD, Sealed()), after(GOOD, Sealed(), Dropped())):
        assert step(attempt, STOP, NOW) is attempt


def test_a_refusal_ends_what_was_never_reported() -> None:
    refused = after(TurnedDown(reason=Reason.REFUSED, error="The disk is full."))
    assert (refused.state, refused.outcome) == (AttemptState.ENDED, Outcome.FAILED)
    assert refused.snapshot is not None and refused.snapshot.error == "The disk is full."
    assert refused.sealed and refused.released


def test_a_refusal_of_what_was_to_stop_counts_as_cancelled() -> None:
    refused = after(STOP, TurnedDown(reason=Reason.REFUSED, error="The disk is full."))
    assert refused.outcome is Outcome.CANCELLED


def test_a_refusal_of_what_was_reported_changes_nothing() -> None:
    running = after(RUNNING)
    refusal = TurnedDown(reason=Reason.REFUSED, error="No.")
    assert step(running, refusal, NOW) is running


def test_an_expired_offer_fails_what_was_never_sent() -> None:
    expired = step(FRESH, OfferExpired(), NOW)
    assert (expired.state, expired.outcome) == (AttemptState.ENDED, Outcome.FAILED)
    assert expired.snapshot is not None and expired.snapshot.reason is Reason.OFFLINE


def test_an_attempt_that_vanished_from_its_node_is_lost() -> None:
    lost = after(RUNNING, Vanished())
    assert (lost.state, lost.outcome) == (AttemptState.ENDED, Outcome.LOST)
    assert lost.snapshot is not None and lost.snapshot.revision == 3
    assert step(lost, GOOD, NOW) is lost


def test_what_was_never_reported_can_not_vanish() -> None:
    assert step(SENT, Vanished(), NOW) is SENT


def test_an_order_that_never_left_fails_when_its_node_is_removed() -> None:
    ended = step(FRESH, NodeRemoved(), NOW)
    assert (ended.state, ended.outcome, ended.released) == (
        AttemptState.ENDED,
        Outcome.FAILED,
        True,
    )
    assert ended.snapshot is not None and "before the order was sent" in (
        ended.snapshot.error or ""
    )


@pytest.mark.parametrize("told", [(), (ACCEPTED,), (RUNNING,), (RUNNING, STOP, STOPPING)])
def test_what_may_run_on_a_removed_node_is_lost_whatever_it_says_later(
    told: tuple[Event, ...],
) -> None:
    lost = after(*told, NodeRemoved())
    assert (lost.state, lost.outcome) == (AttemptState.ENDED, Outcome.LOST)
    assert lost.snapshot is not None and lost.snapshot.reason is Reason.NODE_REMOVED
    assert step(lost, GOOD, NOW) is lost
    archived = after(Sealed(), NodeRemoved(), start=lost)
    assert archived.released and archived.outcome is Outcome.LOST


def test_an_end_that_was_told_before_its_node_was_removed_stands_without_its_log() -> None:
    ended = after(RUNNING, UNREADABLE, NodeRemoved())
    assert (ended.state, ended.outcome, ended.log_gone) == (
        AttemptState.ENDED,
        Outcome.SUCCEEDED,
        True,
    )
    sealed = after(RUNNING, GOOD, Sealed())
    assert step(sealed, NodeRemoved(), NOW).released


def test_a_shown_state_never_goes_back() -> None:
    stopping = after(STOPPING)
    back = step(stopping, said(9, Phase.RUNNING), NOW)
    assert back.state is AttemptState.STOPPING
    assert back.snapshot is not None and back.snapshot.revision == 9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exit_code": 0}, Outcome.SUCCEEDED),
        ({"exit_code": 1}, Outcome.FAILED),
        ({"signal": 11}, Outcome.FAILED),
        ({"reason": Reason.TIMEOUT, "signal": 15}, Outcome.TIMED_OUT),
        ({"reason": Reason.TIMEOUT, "exit_code": 0}, Outcome.TIMED_OUT),
        ({"reason": Reason.CANCELLED, "exit_code": 0}, Outcome.CANCELLED),
        ({"reason": Reason.LOST}, Outcome.LOST),
        ({"reason": Reason.LOST_AFTER}, Outcome.LOST),
        ({"reason": Reason.FORGOTTEN}, Outcome.LOST),
        ({"reason": Reason.START_ERROR}, Outcome.FAILED),
        ({"reason": Reason.REFUSED}, Outcome.FAILED),
        ({"reason": Reason.OFFLINE}, Outcome.FAILED),
        ({"reason": Reason.CANCELLED, "kill_failed": True}, Outcome.KILL_FAILED),
    ],
)
def test_reason_and_exit_code_give_the_outcome(fields: dict[str, Any], expected: Outcome) -> None:
    assert outcome(snap(3, Phase.ENDED, **fields)) is expected


# ---- known gaps, strict: remove the mark together with the fix


def test_a_node_can_not_drop_what_was_not_sealed() -> None:
    for attempt in (SENT, after(RUNNING), after(RUNNING, UNREADABLE)):
        assert step(attempt, Dropped(), NOW) is attempt


def test_a_repeated_seal_or_drop_gives_back_the_same_object() -> None:
    sealed = after(GOOD, Sealed())
    dropped = step(sealed, Dropped(), NOW)
    assert step(sealed, Sealed(), NOW) is sealed
    assert step(dropped, Dropped(), NOW) is dropped


# ---- properties

ends = st.builds(StreamEnd, bytes=st.sampled_from([0, 0, 7]), sha256=st.just("ab"))
snapshots = st.builds(
    Snapshot,
    attempt=st.just(ID),
    revision=st.integers(1, 6),
    phase=st.sampled_from(Phase),
    reason=st.none() | st.sampled_from(Reason),
    exit_code=st.none() | st.integers(0, 255),
    stdout=ends,
    stderr=ends,
    kill_failed=st.booleans(),
    cached=st.booleans(),
    stops=st.integers(0, 3),
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Reported, snapshot=snapshots),
    st.builds(Reported, snapshot=snapshots),
    st.builds(TurnedDown, reason=st.sampled_from(Reason), error=st.just("No.")),
    st.builds(StopAsked, signal=st.sampled_from([9, 15])),
    st.sampled_from([OfferExpired(), Vanished(), Sealed(), Dropped(), NodeRemoved()]),
)
starts = st.sampled_from([FRESH, SENT])
sequences = st.lists(events, max_size=14)


def history(start: Attempt, given_events: list[Event]) -> list[tuple[Attempt, Event, Attempt]]:
    """Every step as (before, event, after)."""
    found = []
    for event in given_events:
        found.append((start, event, step(start, event, NOW)))
        start = found[-1][2]
    return found


@thorough
@given(starts, sequences)
def test_an_end_is_final(start: Attempt, given_events: list[Event]) -> None:
    for before, _, later in history(start, given_events):
        if before.state is AttemptState.ENDED:
            assert later.state is AttemptState.ENDED
            assert later.outcome is before.outcome is not None
            assert later.snapshot == before.snapshot


@thorough
@given(starts, sequences)
def test_states_move_only_along_the_table(start: Attempt, given_events: list[Event]) -> None:
    for before, _, later in history(start, given_events):
        assert later.state is before.state or later.state in ATTEMPT_MOVES[before.state]
        assert (later.state is AttemptState.ENDED) == (later.outcome is not None)


@thorough
@given(starts, sequences)
def test_an_end_is_shown_only_when_its_log_can_be_read(
    start: Attempt, given_events: list[Event]
) -> None:
    for _, _, later in history(start, given_events):
        if later.state is AttemptState.ENDED:
            assert later.snapshot is not None and later.snapshot.phase is Phase.ENDED
            readable = later.snapshot.cached or later.sealed
            assert readable or log_length(later.snapshot) == 0


@thorough
@given(starts, sequences)
def test_what_was_offered_is_never_ended_by_the_server_alone(
    start: Attempt, given_events: list[Event]
) -> None:
    for before, event, later in history(start, given_events):
        if not before.offered:
            continue
        assert later.offered
        if isinstance(event, OfferExpired):
            assert later is before
        if isinstance(event, StopAsked):
            assert later.state is before.state and later.snapshot is before.snapshot


@thorough
@given(starts, sequences)
def test_the_exit_code_is_the_one_the_node_reported(
    start: Attempt, given_events: list[Event]
) -> None:
    reported: set[int | None] = {None}
    for before, event, later in history(start, given_events):
        if isinstance(event, Reported):
            reported.add(event.snapshot.exit_code)
        if later.snapshot is not None:
            assert later.snapshot.exit_code in reported
        known = before.snapshot
        if known is not None and known.phase is Phase.ENDED:
            assert later.snapshot is not None
            assert later.snapshot.exit_code == known.exit_code


@thorough
@given(starts, sequences, st.data())
def test_a_repeated_event_changes_nothing_more(
    start: Attempt, given_events: list[Event], data: st.DataObject
) -> None:
    again = data.draw(events.filter(lambda event: not isinstance(event, StopAsked)))
    once = after(*given_events, again, start=start)
    assert step(once, again, NOW + timedelta(hours=1)) == once


@st.composite
def lives(draw: st.DrawFn) -> list[Snapshot]:
    """What one truthful node says of an attempt, in order."""
    unfinished: list[Phase] = [Phase.ACCEPTED, Phase.RUNNING, Phase.STOPPING]
    phases = [phase for phase in unfinished if draw(st.booleans())]
    if not phases or draw(st.booleans()):
        phases.append(Phase.ENDED)
    stopped = Phase.STOPPING in phases
    return [
        snap(
            revision,
            phase,
            stops=int(stopped and phase in (Phase.STOPPING, Phase.ENDED)),
            **({"exit_code": 4, "stdout": draw(ends), "cached": draw(st.booleans())})
            if phase is Phase.ENDED
            else {},
        )
        for revision, phase in enumerate(phases, start=1)
    ]


@thorough
@given(lives(), st.data())
def test_loss_repeat_and_order_of_facts_do_not_matter(
    life: list[Snapshot], data: st.DataObject
) -> None:
    some = data.draw(st.lists(st.sampled_from(life), max_size=8))
    heard = data.draw(st.permutations([*some, life[-1]]))
    in_order = after(*(Reported(snapshot=one) for one in life))
    jumbled = after(*(Reported(snapshot=one) for one in heard))
    assert jumbled.snapshot == in_order.snapshot == life[-1]
    # an end that waits for its log keeps the state seen before; the seal makes both equal
    assert step(jumbled, Sealed(), NOW) == step(in_order, Sealed(), NOW)
    waiting = life[-1].phase is Phase.ENDED and in_order.state is not AttemptState.ENDED
    assert waiting or jumbled == in_order
