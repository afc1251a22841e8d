"""The ingest loop: facts of nodes become state, then their runs are stepped.

Waits for: batches of the work queue EV. A batch is one unit of work: snapshots are applied by the
pure machine, runs of changed attempts become due, the runs are stepped, and after the commit the
messages are acked. Facts of a session that was replaced, or of a quarantined node, are acked and
not applied: the journal that counts is asked once two beats show the difference. A crash in between
only means that the queue delivers again, which changes nothing. What can't be decoded goes to the
table `rejected` and is acked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from quarterdeck.control.moves import Moves
from quarterdeck.control.steady import Steady
from quarterdeck.control.step import Stepped, Times, step_run, write_guarded
from quarterdeck.control.together import Together
from quarterdeck.core import attempt as machine
from quarterdeck.core.ids import split_attempt
from quarterdeck.core.lag import Lag
from quarterdeck.core.model import Attempt
from quarterdeck.errors import Invalid
from quarterdeck.fabric.base import Delivery, Fabric
from quarterdeck.service import Clock, Services
from quarterdeck.store import node as node_store
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import FactRejected, FactsTaken, Telemetry
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import decode
from quarterdeck.wire.run import AttemptSnapshot, snapshot_record

BATCH = 500

# (attempt, the node that speaks, what it says): only the attempt's own node is listened to
AttemptEvent = tuple[str, str, machine.Event]
# what only the node itself can say
WORDS = (machine.Reported, machine.TurnedDown, machine.Vanished, machine.Dropped)


class Ingest:
    """Applies what nodes say, and what other loops decide, to attempts."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        clock: Clock,
        telemetry: Telemetry,
        moves: Moves,
        steady: Steady,
        services: Services,
        believes: Callable[[str, str], bool],
    ) -> None:
        self._database = database
        self._fabric = fabric
        self._clock = clock
        self._telemetry = telemetry
        self._moves = moves
        self._steady = steady
        self._believes = believes
        self._lag = Lag()
        self._together = Together("facts and answers", self._apply, services=services, most=BATCH)

    def behind(self) -> bool:
        """Whether much of what nodes have said waits to be taken in."""
        crowded = self._together.waiting >= BATCH
        return self._lag.lags(crowded=crowded, now=self._clock.monotonic())

    @property
    def crowded(self) -> bool:
        """Whether more waits than what is being taken in just now."""
        return self._together.waiting > 0

    async def take_facts(self) -> None:
        """Loop: batches of EV, committed, then acked."""
        async for batch in self._fabric.consume(subjects.EV, subjects.INGEST, batch=BATCH):
            began = self._clock.monotonic()
            if len(batch) == BATCH:
                self._lag.full(began)
            events: list[AttemptEvent] = []
            bad: list[tuple[Delivery, str]] = []
            for delivery in batch:
                try:
                    fact, session = _fact(delivery)
                except (Invalid, ValueError) as error:
                    bad.append((delivery, str(error)))
                    continue
                if self._believes(fact[1], session):
                    events.append(fact)
            if bad:
                await self._reject(bad)
            await self.apply(events)
            for delivery in batch:
                delivery.ack()
            seconds = self._clock.monotonic() - began
            self._telemetry.emit(FactsTaken(facts=len(events), seconds=seconds))

    async def apply(self, events: Iterable[AttemptEvent]) -> None:
        """Apply events to attempts, commit, step their runs and wake who waits; together with what
        other nodes say at that time. What a removed node says changes nothing, also before the
        removal loop has ended its attempts."""
        if some := tuple(events):
            await self._together(some)

    async def _apply(self, told: Sequence[tuple[AttemptEvent, ...]]) -> Sequence[None]:
        todo = [event for some in told for event in some]

        def changed(tx: Tx) -> list[tuple[Attempt, Attempt]]:
            now = self._clock.now()
            before = run_store.attempts_by_id(tx, (id for id, _, _ in todo))
            after = dict(before)
            speakers = {node for _, node, event in todo if isinstance(event, WORDS)}
            gone = node_store.removed_among(tx, speakers)
            for id, node, event in todo:
                if (
                    id in after
                    and after[id].node == node
                    and not (node in gone and isinstance(event, WORDS))
                ):
                    after[id] = machine.step(after[id], event, now)
            return [(before[id], after[id]) for id in before]

        await self.change(changed)
        return [None] * len(told)

    async def change(self, unit: Callable[[Tx], list[tuple[Attempt, Attempt]]]) -> bool:
        """Write the attempts that a unit changed, and step the runs they belong to; whether it
        changed any."""
        pairs, stepped = await write_guarded(self._database, lambda tx: self._write(tx, unit))
        self._moves.steps(stepped)
        return self._moves.attempts(pairs)

    def _write(
        self, tx: Tx, unit: Callable[[Tx], list[tuple[Attempt, Attempt]]]
    ) -> tuple[list[tuple[Attempt, Attempt]], list[Stepped]]:
        now = self._clock.now()
        pairs = unit(tx)
        due = run_store.save_attempts(tx, pairs, now)
        times = Times(now, self._steady.now())
        return pairs, [step_run(tx, run, times) for run in sorted(due)]

    def rejected(self, what: str, error: str) -> None:
        """Say that something of a node could not be taken."""
        self._telemetry.emit(FactRejected(subject=what, error=error))

    async def _reject(self, bad: list[tuple[Delivery, str]]) -> None:
        """All of a batch in one unit: a node that sends nothing else costs one commit."""
        now = self._clock.now()

        def keep(tx: Tx) -> None:
            for delivery, error in bad:
                node_store.reject(tx, delivery.subject, delivery.data, error, now)

        await self._database.write(keep)
        for delivery, error in bad:
            self.rejected(delivery.subject, error)


def _fact(delivery: Delivery) -> tuple[AttemptEvent, str]:
    """What a node tells, and the session that tells it."""
    message: AttemptSnapshot = decode(delivery.data, AttemptSnapshot)
    split_attempt(message.attempt)
    node = subjects.node_of(delivery.subject)
    if delivery.subject != subjects.snapshots(node):
        raise Invalid("subject", "This is not a subject of facts.")
    reported = machine.Reported(snapshot=snapshot_record(message))
    return (message.attempt, node, reported), message.session
