"""Bugs of the agent."""

from __future__ import annotations

import dataclasses
from typing import Any

from quarterdeck.agent import orders as agent_orders
from quarterdeck.agent import run as agent_run
from quarterdeck.agent.held import Held, Refusal, Remains
from quarterdeck.agent.orders import OrderDesk
from quarterdeck.agent.run import Attempts, Move
from quarterdeck.agent.shim import files
from quarterdeck.agent.simulated.host import SimulatedClaim
from quarterdeck.agent.snapshot import snapshot
from quarterdeck.core.states import RefusalCode
from quarterdeck.wire import codec
from quarterdeck.wire.run import (
    AnswerItem,
    AttemptRefused,
    AttemptSnapshot,
    OrderMessage,
    StartAttempt,
)
from tests.sim.mutations.registry import Set, mutation


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
def known_signals_are_sent_again(put: Set) -> None:
    real = Attempts.signal

    async def signal(
        self: Any, attempt: str, wanted: tuple[files.Signal, ...]
    ) -> AttemptSnapshot | None:
        held = self._host.look(attempt)
        known = 0 if held is None else max((one.number for one in held.signals), default=0)
        again = [dataclasses.replace(one, number=known + at) for at, one in enumerate(wanted, 1)]
        return await real(self, attempt, tuple(again))

    put(Attempts, "signal", signal)


@mutation
def refused_for_accepted_attempts(put: Set) -> None:
    real = OrderDesk._start

    async def start(self: Any, item: StartAttempt) -> AnswerItem:
        if self._attempts.report(item.attempt) is not None:
            code = RefusalCode.REFUSED
            return AttemptRefused(attempt=item.attempt, code=code, text="Known already.")
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
