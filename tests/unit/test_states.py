"""The tables of moves: complete, final at the end, and without a state nobody can reach."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from quarterdeck.core.model import Counts
from quarterdeck.core.run import BAD_OUTCOMES
from quarterdeck.core.states import (
    ATTEMPT_MOVES,
    RUN_MOVES,
    TASK_MOVES,
    AttemptState,
    Outcome,
    RefusalCode,
    RunState,
    TaskState,
)

TABLES = [(ATTEMPT_MOVES, AttemptState), (TASK_MOVES, TaskState), (RUN_MOVES, RunState)]
Table = Mapping[Any, frozenset[Any]]

tables = pytest.mark.parametrize(("table", "states"), TABLES, ids=["attempt", "task", "run"])


@tables
def test_every_state_is_a_key_and_only_states_are(table: Table, states: type[StrEnum]) -> None:
    assert set(table) == set(states)
    assert all(isinstance(goal, states) for goals in table.values() for goal in goals)


@tables
def test_an_end_has_no_way_out_and_is_the_only_one(table: Table, states: type[StrEnum]) -> None:
    assert [state for state in states if not table[state]] == [states("ended")]


@tables
def test_every_state_is_reached_from_pending(table: Table, states: type[StrEnum]) -> None:
    reached = {states("pending")}
    edge = set(reached)
    while edge:
        edge = {goal for state in edge for goal in table[state]} - reached
        reached |= edge
    assert reached == set(states)


@tables
def test_the_end_is_one_move_away_from_every_other_state(
    table: Table, states: type[StrEnum]
) -> None:
    end = states("ended")
    assert all(end in table[state] for state in states if state is not end)


@tables
def test_the_only_way_round_in_circles_is_another_try(table: Table, states: type[StrEnum]) -> None:
    for state in states:
        beyond: set[Any] = set()
        edge = set(table[state])
        while edge:
            beyond |= edge
            edge = {goal for each in edge for goal in table[each]} - beyond
        again = {TaskState.RUNNING, TaskState.RETRYING} if states is TaskState else set()
        assert (state in beyond) == (state in again)


def test_every_outcome_and_unfinished_task_state_has_a_count() -> None:
    buckets = set(Counts.__struct_fields__) - {"total"}
    unfinished = {state.value for state in TaskState if state is not TaskState.ENDED}
    assert buckets == unfinished | {outcome.value for outcome in Outcome}


def test_every_outcome_but_success_has_a_place_among_the_worst() -> None:
    assert set(BAD_OUTCOMES) == set(Outcome) - {Outcome.SUCCEEDED}


def test_what_a_newer_agent_says_of_a_refusal_is_a_refusal() -> None:
    assert RefusalCode("out of tape") is RefusalCode.REFUSED
    assert all(RefusalCode(code.value) is code for code in RefusalCode)
