"""One bug for each rule of docs/ATTEMPT.md, put into the real code while a simulation runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import update

from quarterdeck.agent import orders as agent_orders
from quarterdeck.agent import run as agent_run
from quarterdeck.agent.held import Held, Refusal, Remains
from quarterdeck.agent.orders import OrderDesk
from quarterdeck.agent.run import Attempts, Move
from quarterdeck.agent.shim import files
from quarterdeck.agent.simulated.host import SimulatedClaim
from quarterdeck.agent.snapshot import snapshot
from quarterdeck.control import dispatch, observe, seal, watch
from quarterdeck.control import step as control_step
from quarterdeck.control.dispatch import Dispatch
from quarterdeck.control.ingest import Ingest, _fact
from quarterdeck.core import attempt as machine
from quarterdeck.core import liveness, reconcile
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
from quarterdeck.wire import codec, subjects
from quarterdeck.wire.run import (
    AnswerItem,
    AttemptRefused,
    AttemptSnapshot,
    OrderItem,
    OrderMessage,
    ReportAttempt,
    StartAttempt,
)

Set = Callable[[object, str, object], None]
Mutation = Callable[[Set], None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The real code with one bug in it; nothing with an empty name."""
    undo: list[Callable[[], None]] = []

    def put(owner: object, attribute: str, value: object) -> None:
        before = getattr(owner, attribute)
        undo.append(lambda: setattr(owner, attribute, before))
        setattr(owner, attribute, value)

    if name:
        MUTATIONS[name](put)
    try:
        yield
    finally:
        for each in reversed(undo):
            each()


# ---- the node


@mutation
def accepted_before_the_order_is_durable(put: Set) -> None:
    async def accept(self: Any, attempt: str, order: OrderMessage) -> AttemptSnapshot:
        async def late() -> None:
            await self._host.accept(attempt, order)
            self._tend(attempt)

        self._services.spawn(late(), f"late accept of {attempt}")
        return snapshot(Held(attempt=attempt, accepted_at=self._clock.now().timestamp()))

    put(Attempts, "accept", accept)


@mutation
def a_lost_end_claims_what_is_not_on_the_disk(put: Set) -> None:
    async def clear(self: SimulatedClaim, held: Held) -> Remains:
        synced = dict(self._directory.synced)
        remains = await real(self, held)
        self._directory.synced = synced
        return remains

    real = SimulatedClaim.clear
    put(SimulatedClaim, "clear", clear)


@mutation
def begun_attempts_are_started_again(put: Set) -> None:
    real = agent_run.next_move

    def next_move(held: Held, *, lock_held: bool) -> Move:
        move = real(held, lock_held=lock_held)
        return Move.START if move is Move.DECLARE_LOST else move

    async def start(self: Any, held: Held, claim: Any) -> None:
        claim._directory.started = None  # as if the shim did not look either
        await real_start(self, held, claim)

    real_start = Attempts._start
    put(agent_run, "next_move", next_move)
    put(Attempts, "_start", start)


@mutation
def stops_are_not_counted(put: Set) -> None:
    real = Attempts.stop

    async def stop(self: Any, attempt: str, wanted: files.Stop) -> AttemptSnapshot | None:
        held = self._host.look(attempt)
        if held is not None and held.stop is not None:
            return snapshot(held)
        return await real(self, attempt, wanted)

    put(Attempts, "stop", stop)


@mutation
def refused_for_accepted_attempts(put: Set) -> None:
    real = OrderDesk._start

    async def start(self: Any, item: StartAttempt) -> AnswerItem:
        if self._attempts.report(item.attempt) is not None:
            return AttemptRefused(attempt=item.attempt, code="refused", text="Known already.")
        return await real(self, item)

    put(OrderDesk, "_start", start)


@mutation
def no_tombstone_for_what_is_refused(put: Set) -> None:
    async def refuse(_self: object, attempt: str, why: Refusal) -> AttemptRefused:
        return AttemptRefused(attempt=attempt, code=why.code, text=why.text)

    put(OrderDesk, "_refuse", refuse)


@mutation
def tombstones_are_not_looked_at(put: Set) -> None:
    async def start(self: Any, item: StartAttempt) -> AnswerItem:
        attempts: Attempts = self._attempts
        return attempts.report(item.attempt) or await attempts.accept(item.attempt, item.order)

    put(OrderDesk, "_start", start)


@mutation
def sessions_are_not_checked(put: Set) -> None:
    def open_envelope(data: bytes, *, to: str, session: str, verify: Any) -> codec.Sealed:
        sealed: codec.Sealed = codec.decode(codec.decode(data, codec.Envelope).sealed, codec.Sealed)
        return codec.open_envelope(data, to=to, session=sealed.session, verify=verify)

    put(agent_orders, "open_envelope", open_envelope)


@mutation
def the_final_snapshot_claims_a_cache_that_refused(put: Set) -> None:
    real = Attempts._report_end

    async def report_end(self: Any, attempt: str, sender: Any) -> None:
        finish = sender.finish

        async def finished() -> bool:
            await finish()
            return True

        sender.finish = finished
        await real(self, attempt, sender)

    put(Attempts, "_report_end", report_end)


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
