"""Slots and picks: what may start on a node now, and which nodes a pick chooses."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.model import Attempt, Facts, Pick, PickBy, Snapshot, Wanted
from quarterdeck.core.place import Candidate, Spread, place, slots_of, startable
from quarterdeck.core.states import Phase

NOW = datetime(2031, 5, 6, tzinfo=UTC)
IDS = [f"n{number}" for number in range(8)]


def attempt(id: str, *, offered: bool = False, priority: int = 0, ended: bool = False) -> Attempt:
    told = Snapshot(attempt=id, revision=1, phase=Phase.ENDED) if ended else None
    return Attempt(
        id=id,
        run="r",
        task="t",
        node="n",
        number=1,
        offered=offered or ended,
        priority=priority,
        snapshot=told,
    )


def never() -> float:
    raise AssertionError("only a random pick draws")


def chosen(pick: Pick, *candidates: Candidate, count: int = 9) -> list[str]:
    return [choice.node for choice in place(pick, candidates, count, never).chosen]


def why_not(pick: Pick, candidate: Candidate) -> str:
    placement = place(pick, [candidate], 1, never)
    assert placement.chosen == ()
    return placement.left_out[0].reason


def test_a_node_has_the_slots_of_its_settings_or_two_for_each_cpu() -> None:
    assert slots_of(Facts(slots=7, cpus=2)) == 7
    assert slots_of(Facts(cpus=3)) == 6
    assert slots_of(Facts()) == 4


def test_a_node_gets_as_many_attempts_as_it_has_free_slots() -> None:
    waiting = [attempt(f"a{number}") for number in range(5)]
    assert startable(waiting, 2, NOW) == {"a0", "a1"}
    assert startable([*waiting, attempt("b", offered=True)], 2, NOW) == {"a0"}
    assert startable([*waiting, attempt("b", ended=True)], 2, NOW) == {"a0", "a1"}


def test_a_higher_priority_goes_first_then_the_older() -> None:
    waiting = [attempt("a1"), attempt("a2", priority=5), attempt("a3", priority=5)]
    assert startable(waiting, 1, NOW) == {"a2"}
    assert startable(waiting, 2, NOW) == {"a2", "a3"}


def test_what_waits_for_its_time_takes_no_slot() -> None:
    later = msgspec.structs.replace(attempt("a"), not_before=NOW + timedelta(seconds=1))
    due = msgspec.structs.replace(attempt("b"), not_before=NOW)
    assert startable([later, due, attempt("c")], 2, NOW) == {"b", "c"}


def test_a_node_with_too_many_attempts_gets_none() -> None:
    full = [attempt(f"b{number}", offered=True) for number in range(9)]
    assert startable([attempt("a"), *full], 4, NOW) == set()


def test_what_is_to_be_stopped_is_not_started_but_keeps_its_slot() -> None:
    stopped = msgspec.structs.replace(attempt("a", offered=True), wanted=Wanted.STOP)
    called_off = msgspec.structs.replace(attempt("b"), wanted=Wanted.STOP)
    assert startable([stopped, called_off, attempt("c"), attempt("d")], 2, NOW) == {"c"}


def test_the_least_loaded_goes_first_and_ties_go_by_id() -> None:
    pick = Pick(count=2)
    busy = Candidate(node="a", load1=3.0, cpus=2)
    calm = Candidate(node="b", load1=4.0, cpus=8)
    same = Candidate(node="c", load1=1.0, cpus=2)
    assert chosen(pick, busy, same, calm) == ["b", "c", "a"]


def test_memory_tasks_and_labels_are_compared() -> None:
    assert chosen(
        Pick(count=1, by=PickBy.LEAST_MEMORY),
        Candidate(node="a", memory_percent=60),
        Candidate(node="b", memory_percent=40),
    ) == ["b", "a"]
    assert chosen(
        Pick(count=1, by=PickBy.FEWEST_TASKS),
        Candidate(node="a", slots=9, held=2),
        Candidate(node="b", slots=9, held=3, fresh=2),
    ) == ["a", "b"]
    assert chosen(
        Pick(count=1, by=PickBy.LABEL, label="queue"),
        Candidate(node="a", metric="12"),
        Candidate(node="b", metric="3.5"),
        Candidate(node="c", metric="many"),
        Candidate(node="d", metric="nan"),
    ) == ["b", "a"]


def test_each_node_that_is_left_out_says_why() -> None:
    pick = Pick(count=1, max_cpu=80, max_memory=90)
    assert why_not(pick, Candidate(node="a", ready=False)) == "not ready"
    assert why_not(pick, Candidate(node="a", draining=True)) == "draining"
    full = Candidate(node="a", slots=2, held=2)
    assert why_not(pick, full) == "full: 2 of 2 slots in use"
    assert why_not(pick, Candidate(node="a", cpu_percent=81)) == "CPU at 81 %, limit 80 %"
    assert why_not(pick, Candidate(node="a", memory_percent=95)) == "memory at 95 %, limit 90 %"
    by_label = Pick(count=1, by=PickBy.LABEL, label="queue")
    assert "queue" in why_not(by_label, Candidate(node="a"))


def test_stale_figures_overload_nobody() -> None:
    given_one = Candidate(node="a", slots=9, fresh=1)
    for by in (PickBy.LEAST_LOAD, PickBy.LEAST_MEMORY):
        assert "since its last heartbeat" in why_not(Pick(count=1, by=by), given_one)
    assert chosen(Pick(count=1, by=PickBy.FEWEST_TASKS), given_one) == ["a"]


def test_a_random_pick_is_spread_by_chance() -> None:
    draws = iter([0.7, 0.1, 0.4])
    pick = Pick(count=1, by=PickBy.RANDOM)
    nodes = [Candidate(node=id) for id in "abc"]
    placement = place(pick, nodes, 1, lambda: next(draws))
    assert [choice.node for choice in placement.chosen] == ["b"]
    assert Counter(choice.node for choice in placement.left_out) == {"a": 1, "c": 1}


candidates = st.lists(
    st.builds(
        Candidate,
        node=st.sampled_from(IDS),
        ready=st.booleans(),
        draining=st.booleans(),
        slots=st.integers(0, 4),
        held=st.integers(0, 5),
        fresh=st.integers(0, 3),
        cpu_percent=st.floats(0, 100),
        load1=st.floats(0, 50),
        cpus=st.integers(0, 64),
        memory_percent=st.floats(0, 100),
        metric=st.sampled_from(["", "1", "x", "inf", "-2"]),
    ),
    unique_by=lambda one: one.node,
)
picks = st.builds(
    Pick,
    count=st.integers(1, 9),
    by=st.sampled_from(PickBy),
    max_cpu=st.sampled_from([0.0, 50.0]),
    max_memory=st.sampled_from([0.0, 50.0]),
)


@given(picks, candidates, st.integers(0, 9))
def test_a_placement_is_fit_complete_and_of_distinct_nodes(
    pick: Pick, nodes: list[Candidate], count: int
) -> None:
    placement = place(pick, nodes, count, lambda: 0.5)
    ids = [choice.node for choice in placement.chosen]
    known = {one.node: one for one in nodes}
    assert len(ids) <= count
    assert sorted([*ids, *(c.node for c in placement.left_out)]) == sorted(known)
    assert all(choice.reason for choice in (*placement.chosen, *placement.left_out))
    for id in ids:
        one = known[id]
        assert one.ready and not one.draining and one.held < one.slots


@given(picks, candidates, st.integers())
def test_the_order_of_the_candidates_does_not_matter(
    pick: Pick, nodes: list[Candidate], seed: int
) -> None:
    mixed = list(nodes)
    random.Random(seed).shuffle(mixed)
    assert place(pick, nodes, 3, lambda: 0.5) == place(pick, mixed, 3, lambda: 0.5)


@given(
    st.lists(
        st.builds(
            attempt,
            st.uuids().map(str),
            offered=st.booleans(),
            priority=st.integers(-3, 3),
            ended=st.booleans(),
        )
    ),
    st.integers(0, 6),
)
def test_offers_never_exceed_the_slots(attempts: list[Attempt], slots: int) -> None:
    busy = sum(1 for one in attempts if one.offered and one.snapshot is None)
    now = startable(attempts, slots, NOW)
    assert len(now) + busy <= max(slots, busy)
    waiting = [one for one in attempts if not one.offered]
    assert len(now) == min(len(waiting), max(0, slots - busy))
    low = min((one.priority for one in waiting if one.id in now), default=9)
    assert all(one.priority <= low for one in waiting if one.id not in now)


def test_tasks_that_go_elsewhere_are_spread() -> None:
    spread = Spread([(0, "a"), (1, "b"), (0, "c")])
    assert [spread.next("a") for _ in range(4)] == ["c", "b", "c", "b"]
    assert spread.next("b") == "a"
    assert Spread([(0, "a")]).next("a") is None


@given(st.dictionaries(st.sampled_from(IDS), st.integers(0, 5)), st.integers(1, 40))
def test_a_spread_is_as_even_as_it_can_be(held: dict[str, int], count: int) -> None:
    spread = Spread((number, id) for id, number in held.items())
    given_out = Counter(id for _ in range(count) if (id := spread.next("nobody")) is not None)
    after = {id: held[id] + given_out[id] for id in held}
    assert all(after[id] - 1 <= min(after.values()) for id in given_out)
