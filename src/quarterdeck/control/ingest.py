"""The ingest loop: facts of nodes become state, then their runs are stepped.

Waits for: batches of the work queue EV. A batch is one unit of work: snapshots are applied by the
pure machine, runs of changed attempts become due, the runs are stepped, and after the commit the
messages are acked. A crash in between only means that the queue delivers again, which changes
nothing. What can't be decoded goes to the table `rejected` and is acked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from quarterdeck.control.changes import Changes, end_topic, run_topic
from quarterdeck.control.run import step_run, write_guarded
from quarterdeck.core import attempt as machine
from quarterdeck.core.ids import split_attempt
from quarterdeck.core.model import Attempt, Phase
from quarterdeck.core.reconcile import orders_for
from quarterdeck.errors import Invalid
from quarterdeck.fabric.base import Delivery, Fabric
from quarterdeck.service import Clock, Poke
from quarterdeck.store import node as node_store
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import AttemptsMoved, FactRejected, FactsTaken, RunEnded, Telemetry
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import decode
from quarterdeck.wire.run import AttemptSnapshot, snapshot_record

BATCH = 500

# (attempt, the node that speaks, what it says): only the attempt's own node is listened to
AttemptEvent = tuple[str, str, machine.Event]


class Ingest:
    """The only writer of attempt states on the server."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        clock: Clock,
        telemetry: Telemetry,
        changes: Changes,
        dispatch: Poke,
        seal: Poke,
    ) -> None:
        self._database = database
        self._fabric = fabric
        self._clock = clock
        self._telemetry = telemetry
        self._changes = changes
        self._dispatch = dispatch
        self._seal = seal

    async def take_facts(self) -> None:
        """Loop: batches of EV, committed, then acked."""
        async for batch in self._fabric.consume(subjects.EV, subjects.INGEST, batch=BATCH):
            began = self._clock.monotonic()
            events: list[AttemptEvent] = []
            for delivery in batch:
                try:
                    events.append(_fact(delivery))
                except (Invalid, ValueError) as error:
                    await self._reject(delivery, str(error))
            await self.apply(events)
            for delivery in batch:
                delivery.ack()
            seconds = self._clock.monotonic() - began
            self._telemetry.emit(FactsTaken(facts=len(events), seconds=seconds))

    async def apply(self, events: Iterable[AttemptEvent]) -> None:
        """Apply events to attempts, commit, step their runs and wake who waits."""
        todo = list(events)

        def changed(tx: Tx) -> list[tuple[Attempt, Attempt]]:
            now = self._clock.now()
            before = run_store.attempts_by_id(tx, (id for id, _, _ in todo))
            after = dict(before)
            for id, node, event in todo:
                if id in after and after[id].node == node:
                    after[id] = machine.step(after[id], event, now)
            return [(before[id], after[id]) for id in before]

        await self.change(changed)

    async def change(self, unit: Callable[[Tx], list[tuple[Attempt, Attempt]]]) -> bool:
        """Write the attempts that a unit changed, and step the runs they belong to; whether it
        changed any."""
        pairs, ended = await write_guarded(self._database, lambda tx: self._write(tx, unit))
        moved = [(before, after) for before, after in pairs if after is not before]
        states = Counter(
            str(after.outcome or after.state)
            for before, after in moved
            if (before.state, before.outcome) != (after.state, after.outcome)
        )
        if states:
            self._telemetry.emit(AttemptsMoved(states=dict(states)))
        for run in {after.run for _, after in moved}:
            self._changes.tell(run_topic(run))
        for run, outcome in ended:
            self._changes.tell(end_topic(run))
            self._telemetry.emit(RunEnded(run=run, outcome=outcome))
        now = self._clock.now()
        if wanting := {after.node for _, after in moved if orders_for([after], now)}:
            self._dispatch(*wanting)
        if any(_is_to_be_sealed(after) for _, after in moved):
            self._seal()
        return bool(moved)

    def _write(
        self, tx: Tx, unit: Callable[[Tx], list[tuple[Attempt, Attempt]]]
    ) -> tuple[list[tuple[Attempt, Attempt]], list[tuple[str, str]]]:
        now = self._clock.now()
        pairs = unit(tx)
        ended = []
        for run in run_store.save_attempts(tx, pairs, now):
            after = step_run(tx, run, now)
            if after.outcome is not None:
                ended.append((run, after.outcome.value))
        return pairs, ended

    def rejected(self, what: str, error: str) -> None:
        """Say that something of a node could not be taken."""
        self._telemetry.emit(FactRejected(subject=what, error=error))

    async def _reject(self, delivery: Delivery, error: str) -> None:
        self.rejected(delivery.subject, error)
        now = self._clock.now()
        await self._database.write(
            lambda tx: node_store.reject(tx, delivery.subject, delivery.data, error, now)
        )


def _is_to_be_sealed(attempt: Attempt) -> bool:
    ended = attempt.snapshot is not None and attempt.snapshot.phase is Phase.ENDED
    return ended and not attempt.sealed


def _fact(delivery: Delivery) -> AttemptEvent:
    message: AttemptSnapshot = decode(delivery.data, AttemptSnapshot)
    split_attempt(message.attempt)
    node = subjects.node_of(delivery.subject)
    return message.attempt, node, machine.Reported(snapshot=snapshot_record(message))
