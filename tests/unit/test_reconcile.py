"""Orders out of rows, beats against rows, and a tiny node on which everything comes to agree."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.core.attempt import (
    Dropped,
    Event,
    Reported,
    Sealed,
    StopAsked,
    TurnedDown,
    Vanished,
    step,
)
from quarterdeck.core.model import Attempt, Reason, SignalOrder, Snapshot, Wanted
from quarterdeck.core.reconcile import (
    Beat,
    Command,
    Release,
    Revoke,
    Signal,
    Start,
    Stop,
    Verdict,
    Watch,
    compare,
    orders_for,
)
from quarterdeck.core.states import Phase

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
RUN = "0123456789abcdef"
A, B, STRANGER = f"{RUN}-0-1", f"{RUN}-1-1", f"{RUN}-9-1"


def row(id: str = A, phase: Phase | None = None, revision: int = 2, **fields: Any) -> Attempt:
    stops = fields.pop("seen_stops", 0)
    known = Snapshot(attempt=id, revision=revision, phase=phase, stops=stops) if phase else None
    return Attempt(id=id, run=RUN, task=id[:-2], node="n", number=1, snapshot=known, **fields)


def beat(revisions: Mapping[str, int], session: str = "s", *, complete: bool = True) -> Beat:
    return Beat(session=session, revisions=revisions, complete=complete)


def verdicts(beats: list[Beat], *rows: Attempt) -> list[Verdict]:
    watch, found = Watch(), []
    for each in beats:
        found.append(compare(watch, each, {attempt.id: attempt for attempt in rows}))
        watch = found[-1].watch
    return found


# ---- orders


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (row(), [Start(attempt=A)]),
        (row(offered=True), [Start(attempt=A)]),
        (row(phase=Phase.ACCEPTED), []),
        (row(phase=Phase.RUNNING), []),
        (row(phase=Phase.ENDED), []),
        (row(wanted=Wanted.STOP, stops=1, offered=True), [Revoke(attempt=A)]),
        (
            row(phase=Phase.RUNNING, wanted=Wanted.STOP, stops=1, stop_signal=15),
            [Stop(attempt=A, count=1, signal=15)],
        ),
        (row(phase=Phase.STOPPING, seen_stops=1, wanted=Wanted.STOP, stops=1), []),
        (
            row(phase=Phase.STOPPING, seen_stops=1, wanted=Wanted.STOP, stops=2, stop_signal=9),
            [Stop(attempt=A, count=2, signal=9)],
        ),
        (row(phase=Phase.ENDED, wanted=Wanted.STOP, stops=1), []),
        (row(phase=Phase.ENDED, wanted=Wanted.FORGET, sealed=True), [Release(attempt=A)]),
        (row(phase=Phase.ENDED, wanted=Wanted.FORGET, sealed=True, released=True), []),
        (row(released=True), []),
    ],
)
def test_an_order_is_the_difference_between_wanted_and_reported(
    attempt: Attempt, expected: list[Command]
) -> None:
    assert orders_for([attempt], NOW) == expected


def test_orders_keep_the_order_of_the_rows() -> None:
    rows = [row(B), row(A, Phase.RUNNING), row(STRANGER)]
    assert orders_for(rows, NOW) == [Start(attempt=B), Start(attempt=STRANGER)]


# ---- beats


def test_agreement_leaves_nothing_to_do() -> None:
    (verdict,) = verdicts([beat({A: 2})], row(phase=Phase.RUNNING))
    assert verdict == Verdict(watch=Watch(session="s"))


@pytest.mark.parametrize(
    ("attempt", "revisions"),
    [
        (row(phase=Phase.RUNNING), {A: 3}),
        (row(phase=Phase.RUNNING), {A: 1}),
        (row(phase=Phase.RUNNING), {}),
        (row(offered=True), {A: 1}),
        (row(phase=Phase.ENDED), {A: 3}),
    ],
)
def test_a_difference_is_asked_about_after_two_beats_of_one_session(
    attempt: Attempt, revisions: dict[str, int]
) -> None:
    first, second, third = verdicts([beat(revisions)] * 3, attempt)
    assert first.ask == () and second.ask == (A,) and third.ask == (A,)
    assert first.unknown == second.unknown == ()


@pytest.mark.parametrize(
    "attempt",
    [
        row(),
        row(offered=True),
        row(phase=Phase.ENDED, sealed=True),
        row(phase=Phase.ENDED, log_gone=True),
        row(wanted=Wanted.STOP),
    ],
)
def test_what_a_node_need_not_hold_is_no_difference(attempt: Attempt) -> None:
    assert verdicts([beat({})] * 2, attempt)[1] == Verdict(watch=Watch(session="s"))


def test_a_difference_that_went_away_in_between_starts_anew() -> None:
    beats = [beat({A: 3}), beat({A: 2}), beat({A: 3})]
    assert [v.ask for v in verdicts(beats, row(phase=Phase.RUNNING))] == [(), (), ()]


def test_a_new_session_starts_anew() -> None:
    beats = [beat({A: 3}), beat({A: 3}, "t"), beat({A: 3}, "t")]
    assert [v.ask for v in verdicts(beats, row(phase=Phase.RUNNING))] == [(), (), (A,)]


def test_a_cut_off_list_accuses_nobody_of_being_away() -> None:
    beats = [beat({}, complete=False)] * 3
    assert [v.ask for v in verdicts(beats, row(phase=Phase.RUNNING))] == [(), (), ()]
    assert verdicts(beats, row(phase=Phase.RUNNING))[2].watch.suspects == frozenset()


def test_a_cut_off_list_still_shows_other_revisions() -> None:
    beats = [beat({A: 3}, complete=False)] * 2
    assert verdicts(beats, row(phase=Phase.RUNNING))[1].ask == (A,)


def test_an_unknown_attempt_is_shown_after_two_beats_and_never_asked_about() -> None:
    found = verdicts([beat({STRANGER: 1})] * 3, row(phase=Phase.RUNNING))
    assert [v.unknown for v in found] == [(), (STRANGER,), (STRANGER,)]
    assert all(STRANGER not in v.ask for v in found)


@settings(max_examples=200)
@given(
    st.lists(
        st.builds(
            Beat,
            session=st.sampled_from("st"),
            revisions=st.dictionaries(st.sampled_from([A, B, STRANGER]), st.integers(1, 3)),
            complete=st.booleans(),
        ),
        max_size=8,
    ),
    st.sampled_from([None, *Phase]),
)
def test_nothing_is_asked_or_shown_that_one_beat_alone_showed(
    beats: list[Beat], phase: Phase | None
) -> None:
    rows = [row(A, phase), row(B, Phase.RUNNING)]
    found = verdicts(beats, *rows)
    for number, verdict in enumerate(found):
        before = found[number - 1].watch if number else Watch()
        same = before.session == beats[number].session
        for id in (*verdict.ask, *verdict.unknown):
            assert same and id in before.suspects and id in verdict.watch.suspects
        assert set(verdict.ask) <= {A, B}
        assert set(verdict.unknown) <= {STRANGER}


# ---- a tiny node: after all orders are done nothing differs


class TinyNode:
    """Holds snapshots, answers orders as an agent does, and may lose what it holds."""

    def __init__(self) -> None:
        self.held: dict[str, Snapshot] = {}
        self.buried: set[str] = set()

    def answer(self, command: Command) -> Event | None:
        id = command.attempt
        match command:
            case Start() if id not in self.held and id not in self.buried:
                self.held[id] = Snapshot(attempt=id, revision=1, phase=Phase.ACCEPTED)
            case Revoke() if id not in self.held:
                self.buried.add(id)
            case Stop(count=count) if id in self.held:
                self.change(id, Phase.STOPPING, stops=count)
            case Release():
                self.held.pop(id, None)
                return Dropped()
            case _:
                pass
        if id in self.held:
            return Reported(snapshot=self.held[id])
        if id in self.buried:
            return TurnedDown(reason=Reason.CANCELLED, error="Revoked.")
        return Vanished()

    def report(self, id: str) -> Event | None:
        """What the journal holds, when asked."""
        return Reported(snapshot=self.held[id]) if id in self.held else Vanished()

    def change(self, id: str, phase: Phase, **fields: Any) -> None:
        known = self.held.get(id)
        if known is not None and known.phase is not Phase.ENDED:
            self.held[id] = msgspec.structs.replace(
                known, phase=phase, revision=known.revision + 1, **fields
            )

    def beat(self) -> Beat:
        return beat({id: snapshot.revision for id, snapshot in self.held.items()})


class Fleetlet:
    """Rows of one node and the node; facts may be lost on the way."""

    def __init__(self, ids: list[str]) -> None:
        self.node = TinyNode()
        self.rows = {id: row(id) for id in ids}
        self.watch = Watch()

    def apply(self, id: str, event: Event | None) -> None:
        if event is not None:
            self.rows[id] = step(self.rows[id], event, NOW)

    def dispatch(self, *, heard: bool = True) -> int:
        commands = orders_for(self.rows.values(), NOW)
        for command in commands:
            self.rows[command.attempt] = msgspec.structs.replace(
                self.rows[command.attempt], offered=True
            )
            answer = self.node.answer(command)
            if heard:
                self.apply(command.attempt, answer)
        return len(commands)

    def look(self) -> Verdict:
        recorded = {id: attempt for id, attempt in self.rows.items() if not attempt.released}
        verdict = compare(self.watch, self.node.beat(), recorded)
        self.watch = verdict.watch
        for id in verdict.ask:
            self.apply(id, self.node.report(id))
        return verdict

    def do(self, action: str, id: str) -> None:
        match action:
            case "dispatch" | "dispatch unheard":
                self.dispatch(heard=action == "dispatch")
            case "run":
                self.node.change(id, Phase.RUNNING)
            case "end":
                self.node.change(id, Phase.ENDED, exit_code=0, cached=True)
            case "lose":
                self.node.held.pop(id, None)
            case "tell" if id in self.node.held:
                self.apply(id, Reported(snapshot=self.node.held[id]))
            case "stop":
                self.apply(id, StopAsked(signal=15))
            case "seal":
                self.apply(id, Sealed())
            case _:
                pass


actions = st.tuples(
    st.sampled_from(
        ["dispatch", "dispatch unheard", "run", "end", "lose", "tell", "stop", "stop", "seal"]
    ),
    st.sampled_from([A, B]),
)


@settings(max_examples=300)
@given(st.lists(actions, max_size=16))
def test_when_all_orders_are_done_and_all_questions_answered_nothing_differs(
    story: list[tuple[str, str]],
) -> None:
    fleet = Fleetlet([A, B])
    for action, id in story:
        fleet.do(action, id)
    for _ in range(6):
        fleet.dispatch()
        fleet.look()
    assert fleet.dispatch() == 0
    assert fleet.look() == Verdict(watch=Watch(session="s"))
    for attempt in fleet.rows.values():
        assert attempt.released or attempt.snapshot is not None
        if attempt.released:
            assert attempt.id not in fleet.node.held


def test_only_signals_that_the_node_has_not_recorded_are_sent() -> None:
    signals = tuple(
        SignalOrder(number=number, signal=1, key=str(number), at=NOW) for number in (1, 2, 3)
    )
    attempt = row(phase=Phase.RUNNING, signals=signals)
    assert attempt.snapshot is not None
    for known in range(4):
        told = msgspec.structs.replace(attempt.snapshot, signals=known)
        found = orders_for([msgspec.structs.replace(attempt, snapshot=told)], NOW)
        assert found == ([Signal(attempt=A, signals=signals[known:])] if known < 3 else [])
    ended = msgspec.structs.replace(attempt.snapshot, phase=Phase.ENDED)
    assert orders_for([msgspec.structs.replace(attempt, snapshot=ended)], NOW) == []
    assert orders_for([msgspec.structs.replace(attempt, snapshot=None)], NOW) == [Start(attempt=A)]
