"""A bug in each rule of docs/ATTEMPT.md is found by the simulation.

Each pair of lines names a rule, the mutation that breaks it (tests/sim/mutations/), and the plan
that finds it: random faults, or a short plan of tests/sim/directed.py that leads to the one moment
at which the rule matters. The real code is quiet under every plan.

    The node
      the order is durable before the answer
          accepted_before_the_order_is_durable (disks_are_slow_when_agents_die)
      what began once is never started again
          begun_attempts_are_started_again (random)
      a lost end claims only what is on the disk
          a_lost_end_claims_what_is_not_on_the_disk (the_power_fails_after_a_lost_end)
      each stop counts
          stops_are_not_counted (cancelled_twice)
      each signal is taken once
          known_signals_are_sent_again (signalled_while_answers_are_lost)
      `refused` only for the never accepted
          refused_for_accepted_attempts (answers_are_lost)
      a refusal leaves a tombstone
          no_tombstone_for_what_is_refused (orders_come_after_they_were_called_off)
      a release leaves a tombstone
          tombstones_are_not_looked_at (orders_come_twice_and_late)
      orders of other sessions are ignored
          sessions_are_not_checked (orders_outlive_the_agent_they_were_for)
      `cached` only if all was taken
          the_final_snapshot_claims_a_cache_that_refused (the_cache_refuses_for_a_while)
    Facts
      a higher revision wins
          a_lower_revision_wins (facts_are_overtaken)
      an end is final
          an_end_is_not_final (facts_are_overtaken)
      facts are acked after the commit
          facts_are_acked_before_the_commit (facts_are_overtaken)
      an end is shown when its log can be read
          an_end_is_shown_before_its_log_can_be_read (the_cache_refuses_for_a_while)
      a run stays due while some are fresh
          due_is_cleared_although_more_is_fresh (facts_come_all_at_once)
    Orders
      no answer means unknown (offers)
          an_offer_is_withdrawn_after_a_timeout (answers_are_lost)
      no answer means unknown (refusals)
          no_answer_is_a_refusal (answers_are_lost)
      state changes only by guarded update
          the_guard_of_a_withdrawal_is_not_checked (a_withdrawal_comes_late)
      what was offered needs the node's word
          what_was_offered_is_ended_without_the_nodes_word (answers_are_lost)
      released only after it was sealed
          an_attempt_is_released_before_it_is_sealed (the_cache_refuses_for_a_while)
    Reconcile
      the node's journal is asked first
          a_difference_is_believed_without_asking_the_journal (answers_are_lost)
      only two beats make a difference
          one_beat_is_enough (calm)
      beats are compared with the record
          beats_are_not_compared (the_fabric_forgets)
      what a power cut brings back is released
          what_comes_back_is_only_shown (the_power_fails_after_the_release)
      one late beat is not two agents
          a_quarantine_is_for_ever (beats_come_late)
      sessions are a chain
          whoever_beats_last_is_the_present_session (a_start_is_heard_after_the_next_one)
      whoever names the other is the later one
          a_late_first_beat_is_a_start (a_first_beat_is_late_for_a_server_that_came_up)
    The plan of a run
      no more tasks at once than the window
          the_window_has_no_edge (tasks_follow_one_another)
      a crossed limit halts the run
          a_limit_that_is_crossed_halts_nothing (tasks_follow_one_another)
      a try waits for its time
          a_retry_does_not_wait_for_its_time (tasks_follow_one_another)
      as many tries as the plan says
          a_task_is_tried_for_ever (tasks_follow_one_another)
    Output
      chunks are known by offset (viewers)
          offsets_do_not_dedupe_for_viewers (live_chunks_are_lost)
      chunks are known by offset (sealing)
          offsets_do_not_dedupe_at_sealing (chunks_come_twice)
      a gap is fetched (viewers)
          a_gap_is_ignored_by_viewers (live_chunks_are_lost)
      a gap is fetched (sealing)
          a_gap_is_ignored_at_sealing (the_cache_refuses_for_a_while)
      the hash must be the node's
          hashes_are_not_compared (the_cache_is_damaged)
      the length must be the node's
          lengths_are_not_compared (the_cache_refuses_for_a_while)

Guards inside one unit of work can't be met here, as the simulated servers share one writer; the
contracts of the store have them on PostgreSQL.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.sim.directed import DIRECTED
from tests.sim.many import ROOT, lines
from tests.sim.mutations import MUTATIONS

RANDOM = "random"
TABLE = dict(re.findall(r"^ {10}(\w+) \((\w+)\)$", __doc__ or "", re.MULTILINE))
CASES = [f"{mutation}:{'' if plan == RANDOM else plan}" for mutation, plan in TABLE.items()]
QUIET = [f":{plan}" for plan in DIRECTED]


@pytest.fixture(scope="module")
def found() -> dict[str, str | None]:
    """What the simulation says to each case."""
    processes = os.cpu_count() or 1
    every = [*CASES, *QUIET]
    said = lines([_process(every[at::processes]) for at in range(processes)])
    answers = [json.loads(line) for line in said]
    return {answer["case"]: answer["violation"] for answer in answers}


def _process(cases: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sim.catch", *cases],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_list_above_names_every_mutation_and_every_plan() -> None:
    assert TABLE.keys() == MUTATIONS.keys()
    assert set(TABLE.values()) == DIRECTED.keys() | {RANDOM}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_a_bug_in_a_rule_is_found(case: str, found: dict[str, str | None]) -> None:
    assert found[case], f"{case}: nothing was violated"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", QUIET)
def test_the_real_code_is_quiet_under_the_same_plan(
    case: str, found: dict[str, str | None]
) -> None:
    assert found[case] is None
