"""Bugs of the servers: facts, orders, reconcile, output."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import update

from quarterdeck.control import dispatch, observe, offers, seal, watch
from quarterdeck.control import step as control_step
from quarterdeck.control.dispatch import Dispatch
from quarterdeck.control.ingest import Ingest, _fact
from quarterdeck.core import attempt as machine
from quarterdeck.core import liveness, place, reconcile, retry
from quarterdeck.core import plan as run_plan
from quarterdeck.core.model import Attempt, Reason, Snapshot, StreamEnd
from quarterdeck.core.reconcile import Release
from quarterdeck.core.states import Phase
from quarterdeck.core.stream import Gap, Taken, splice
from quarterdeck.errors import Invalid
from quarterdeck.store import run as run_store
from quarterdeck.store import step as step_store
from quarterdeck.store.archive import StreamLayout
from quarterdeck.store.base import Tx
from quarterdeck.store.tables import attempts as attempts_table
from quarterdeck.wire import subjects
from quarterdeck.wire.run import (
    OrderItem,
    ReportAttempt,
)
from tests.sim.mutations.registry import Set, mutation

# ---- facts


@mutation
def a_lower_revision_wins(put: Set) -> None:
    real = machine._reported

    def reported(attempt: Attempt, told: Snapshot) -> Attempt:
        return real(msgspec.structs.replace(attempt, snapshot=None), told)

    put(machine, "_reported", reported)


@mutation
def an_end_is_not_final(put: Set) -> None:
    real = machine._reported

    def reported(attempt: Attempt, told: Snapshot) -> Attempt:
        known = attempt.snapshot
        if known is not None and known.phase is Phase.ENDED and told.phase is not Phase.ENDED:
            state = machine.PHASE_STATE[told.phase]
            return msgspec.structs.replace(attempt, snapshot=told, state=state, outcome=None)
        return real(attempt, told)

    put(machine, "_reported", reported)


@mutation
def facts_are_acked_before_the_commit(put: Set) -> None:
    async def take_facts(self: Any) -> None:
        async for batch in self._fabric.consume(subjects.EV, subjects.INGEST, batch=500):
            for delivery in batch:
                delivery.ack()
            with contextlib.suppress(Invalid):
                await self.apply([_fact(delivery)[0] for delivery in batch])

    put(Ingest, "take_facts", take_facts)


@mutation
def an_end_is_shown_before_its_log_can_be_read(put: Set) -> None:
    put(machine, "log_length", lambda _snapshot: 0)


@mutation
def due_is_cleared_although_more_is_fresh(put: Set) -> None:
    real = step_store.stepped

    def stepped(tx: Tx, run: Any, moved: Any, seen: Any, *, more: bool) -> Any:
        return real(tx, run, moved, seen, more=False)

    put(step_store, "stepped", stepped)
    put(control_step, "STEP_BATCH", 1)


# ---- orders


@mutation
def an_offer_is_withdrawn_after_a_timeout(put: Set) -> None:
    real = Dispatch._ask_and_apply

    async def ask(self: Any, node: str, batch: Any, offered: Mapping[str, int]) -> bool:
        answered = await real(self, node, batch, dict(offered))
        if not answered and offered:
            await self._database.write(lambda tx: run_store.withdraw(tx, offered))
        return answered

    put(Dispatch, "_ask_and_apply", ask)


@mutation
def no_answer_is_a_refusal(put: Set) -> None:
    real = Dispatch._ask_and_apply

    async def ask(self: Any, node: str, batch: Any, offered: Mapping[str, int]) -> bool:
        answered = await real(self, node, batch, dict(offered))
        if not answered:
            event = machine.TurnedDown(reason=Reason.REFUSED, error="No answer.")
            await self._ingest.apply([(id, node, event) for id in offered])
        return answered

    put(Dispatch, "_ask_and_apply", ask)


@mutation
def the_guard_of_a_withdrawal_is_not_checked(put: Set) -> None:
    def withdraw(tx: Tx, offered: Mapping[str, int]) -> None:
        for id in sorted(offered):
            tx.execute(
                update(attempts_table).where(attempts_table.c.id == id).values(offered=False)
            )

    put(run_store, "withdraw", withdraw)


@mutation
def what_was_offered_is_ended_without_the_nodes_word(put: Set) -> None:
    real = machine._stop_asked

    def stop_asked(attempt: Attempt, signal: int, now: Any) -> Attempt:
        if attempt.snapshot is None:
            attempt = msgspec.structs.replace(attempt, offered=False)
        return real(attempt, signal, now)

    put(machine, "_stop_asked", stop_asked)


@mutation
def an_attempt_is_released_before_it_is_sealed(put: Set) -> None:
    real = reconcile._order_for

    def order_for(attempt: Attempt, now: Any) -> Any:
        ended = attempt.snapshot is not None and attempt.snapshot.phase is Phase.ENDED
        if ended and not attempt.released:
            return Release(attempt=attempt.id)
        return real(attempt, now)

    put(reconcile, "_order_for", order_for)


# ---- reconcile


@mutation
def a_difference_is_believed_without_asking_the_journal(put: Set) -> None:
    async def ask_journals(self: Any) -> None:
        while True:
            ids = await self._ask.wait()
            found = await self._database.read(partial(run_store.attempts_by_id, ids=ids))
            gone = machine.Vanished()
            await self._ingest.apply([(a.id, a.node, gone) for a in found.values()])

    put(Dispatch, "ask_journals", ask_journals)


@mutation
def one_beat_is_enough(put: Set) -> None:
    real = reconcile.compare

    def compare(watch: Any, beat: Any, recorded: Any) -> Any:
        differing = {a.id for a in recorded.values() if reconcile._differs(a, beat)}
        verdict = real(watch, beat, recorded)
        return msgspec.structs.replace(verdict, ask=tuple(sorted(differing)))

    put(observe, "compare", compare)


@mutation
def beats_are_not_compared(put: Set) -> None:
    put(reconcile, "_differs", lambda _attempt, _beat: False)


@mutation
def what_comes_back_is_only_shown(put: Set) -> None:
    def question(attempt: Attempt) -> OrderItem | None:
        return None if attempt.released else ReportAttempt(attempt=attempt.id)

    put(dispatch, "_question", question)


@mutation
def a_quarantine_is_for_ever(put: Set) -> None:
    put(liveness, "COPY_GONE_S", 1e9)


@mutation
def a_late_first_beat_is_a_start(put: Set) -> None:
    real = liveness._names
    put(liveness, "_follows", lambda now, before: not now or not before or real(now, before))
    put(liveness, "_names", lambda _current, _before: False)


@mutation
def whoever_beats_last_is_the_present_session(put: Set) -> None:
    put(liveness, "_follows", lambda _current, _before: True)
    put(liveness, "_names", lambda _current, _before: False)


# ---- output


def _overlapping(wanted: int, offset: int, data: bytes) -> Taken | Gap | None:
    return Gap(wanted, offset) if offset > wanted else Taken(wanted, data)


def _gapless(wanted: int, offset: int, data: bytes) -> Taken | Gap | None:
    return Taken(wanted, data) if offset > wanted else splice(wanted, offset, data)


@mutation
def offsets_do_not_dedupe_for_viewers(put: Set) -> None:
    put(watch, "splice", _overlapping)


@mutation
def offsets_do_not_dedupe_at_sealing(put: Set) -> None:
    put(seal, "splice", _overlapping)


@mutation
def a_gap_is_ignored_by_viewers(put: Set) -> None:
    put(watch, "splice", _gapless)


@mutation
def a_gap_is_ignored_at_sealing(put: Set) -> None:
    put(seal, "splice", _gapless)


@mutation
def hashes_are_not_compared(put: Set) -> None:
    def matches(layout: StreamLayout, end: StreamEnd) -> bool:
        return layout.bytes == end.bytes

    put(seal, "_matches", matches)


@mutation
def lengths_are_not_compared(put: Set) -> None:
    put(seal, "_matches", lambda _layout, _end: True)
    put(seal._Assembly, "_pull", _nothing_pulled)


async def _nothing_pulled(_self: object, _stream: str, _end: int) -> None:
    """The cache will do."""


# ---- the plan of a run


@mutation
def the_window_has_no_edge(put: Set) -> None:
    put(run_plan, "window", lambda _plan, total: total)


@mutation
def a_limit_that_is_crossed_halts_nothing(put: Set) -> None:
    put(run_plan, "crossed", lambda _plan, _counts: None)


@mutation
def a_retry_does_not_wait_for_its_time(put: Set) -> None:
    real, real_startable = reconcile._order_for, place.startable

    def order_for(attempt: Attempt, now: Any) -> Any:
        return real(msgspec.structs.replace(attempt, not_before=None), now)

    def startable(attempts: Any, slots: int, now: Any) -> Any:
        early = [msgspec.structs.replace(one, not_before=None) for one in attempts]
        return real_startable(early, slots, now)

    put(reconcile, "_order_for", order_for)
    put(dispatch, "startable", startable)
    put(offers, "startable", startable)


@mutation
def a_task_is_tried_for_ever(put: Set) -> None:
    real = retry.is_due

    def is_due(plan: Any, attempt: Attempt) -> bool:
        return real(msgspec.structs.replace(plan, attempts=9), attempt)

    put(retry, "is_due", is_due)
