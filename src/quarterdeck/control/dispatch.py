"""The dispatch loop: brings each node to what is wanted of it.

Waits for: pokes with node ids (after every commit that changes what is wanted, and at each beat of
a node with open attempts), pokes of `ask` with attempts whose journal is to be read, and ticks of
`TICK_S` for offers that ran out and of `LATER_TICK_S` for attempts whose time has come. It reads
what is wanted, sends what differs, and applies the answers. A node that does not answer is simply
tried again at its next beat. What was just created is handed to `begin` and not read
back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from quarterdeck.control.ingest import Ingest
from quarterdeck.control.items import batches, meaning, order_item
from quarterdeck.control.lease import OFFERS, Leases
from quarterdeck.control.moves import UNPLACED, Full
from quarterdeck.control.observe import Fleet
from quarterdeck.control.offers import Offers
from quarterdeck.control.orders import Orderer
from quarterdeck.control.steady import Steady
from quarterdeck.core import attempt as machine
from quarterdeck.core import liveness
from quarterdeck.core.model import Attempt, Order, Reason
from quarterdeck.core.place import open_slots, startable
from quarterdeck.core.reconcile import Command, Start, Stop, orders_for
from quarterdeck.errors import Invalid, NotFound, Unavailable
from quarterdeck.service import Clock, Poke, Services
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import OrdersSent, Telemetry
from quarterdeck.wire.run import (
    AnswerItem,
    OrderItem,
    ReleaseAttempt,
    ReportAttempt,
    StartAttempt,
)

TICK_S = 1.0
DRAINED = "The node is draining, and nobody ended that in time (`qd node undrain`)."
NOT_PLACED = "No node of the target could take it in time."
LATER_TICK_S = 0.5
OVERLAP = timedelta(seconds=5)
EPOCH = datetime(1970, 2, 1, tzinfo=UTC)


class Dispatch:
    """Sends orders. One conversation per node at a time."""

    def __init__(
        self,
        *,
        database: Database,
        orderer: Orderer,
        fleet: Fleet,
        ingest: Ingest,
        services: Services,
        clock: Clock,
        steady: Steady,
        leases: Leases,
        telemetry: Telemetry,
        poke: Poke,
        ask: Poke,
        full: Full,
    ) -> None:
        self._leases = leases
        self._database = database
        self._orderer = orderer
        self._fleet = fleet
        self._ingest = ingest
        self._services = services
        self._clock = clock
        self._steady = steady
        self._telemetry = telemetry
        self._poke = poke
        self._ask = ask
        self._full = full
        self._offers = Offers(
            database=database, services=services, steady=steady, slots=self._slots, full=full
        )
        self._talking: set[str] = set()
        self._again: set[str] = set()
        self._waiting: set[str] = set()

    async def send_orders(self) -> None:
        """Loop: send each poked node what differs."""
        nodes = await self._database.read(run_store.nodes_with_open_attempts)
        self._poke(*filter(self._leases.mine, nodes - {UNPLACED}))
        while True:
            nodes = await self._poke.wait()
            self._again |= nodes & self._talking
            nodes -= self._talking
            if not nodes:
                continue
            wanted = await self._database.read(partial(run_store.open_attempts, node_ids=nodes))
            todo = {node: self._settled(node, attempts) for node, attempts in wanted.items()}
            orders = await self._orders(wanted, todo)
            for node, commands in todo.items():
                if node in self._talking:  # since the read
                    self._again.add(node)
                elif commands:
                    known = {a.id: a for a in wanted[node]}
                    self._talk(node, self._conversation(node, commands, known, orders))

    async def _orders(
        self, wanted: Mapping[str, list[Attempt]], todo: Mapping[str, list[Command]]
    ) -> dict[str, Order]:
        """The orders of the runs of which something is to be started or stopped."""
        ids = {c.attempt for some in todo.values() for c in some if isinstance(c, Start | Stop)}
        runs = {one.run for some in wanted.values() for one in some if one.id in ids}
        if not runs:
            return {}
        return await self._database.read(partial(run_store.orders_of, run_ids=runs))

    def begin(self, order: Order, attempts: Sequence[Attempt]) -> None:
        """Send attempts of one run, just committed, one for each of its nodes."""
        for new in attempts:
            if new.node == UNPLACED:
                continue
            if new.node in self._talking:
                self._poke(new.node)
            else:
                self._talk(new.node, self._first_words(new, order))

    def _settled(self, node: str, attempts: list[Attempt]) -> list[Command]:
        """What is to be sent now. Right after a new session of a node nothing is that an earlier
        one may have begun: it may live on in a copy of the node's directory."""
        commands = self._fitting(node, attempts, orders_for(attempts, self._steady.now()))
        wait_s = self._fleet.unsettled_s(node)
        if not wait_s:
            return commands
        offered = {attempt.id for attempt in attempts if attempt.offered}
        now = [c for c in commands if not (isinstance(c, Start) and c.attempt in offered)]
        if len(now) < len(commands) and node not in self._waiting:
            self._waiting.add(node)
            self._services.spawn(self._later(node, wait_s), f"orders {node} later")
        return now

    def _fitting(
        self, node: str, attempts: list[Attempt], commands: list[Command]
    ) -> list[Command]:
        """Without the starts for which the node has no free slot."""
        starts = {c.attempt for c in commands if isinstance(c, Start)}
        may = startable(attempts, self._slots(node), self._steady.now())
        held_back = {a.id for a in attempts if a.id in starts and not a.offered} - may
        (self._full.add if held_back else self._full.discard)(node)
        return [c for c in commands if not (isinstance(c, Start) and c.attempt in held_back)]

    def _slots(self, node: str) -> int:
        try:
            return open_slots(self._fleet.get(node), self._clock.now())
        except NotFound:
            return 0

    async def _later(self, node: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._waiting.discard(node)
        self._poke(node)

    async def ask_journals(self) -> None:
        """Loop: ask nodes about attempts that two beats showed differently.

        What a power cut brought back after its release is released once more.
        """
        while True:
            ids = await self._ask.wait()
            attempts = await self._database.read(partial(run_store.attempts_by_id, ids=ids))
            by_node: dict[str, list[OrderItem]] = {}
            for attempt in attempts.values():
                if (item := _question(attempt)) is not None:
                    by_node.setdefault(attempt.node, []).append(item)
            for node, items in by_node.items():
                question = self._ask_and_apply(node, tuple(items), {})
                self._services.spawn(question, f"journal of {node}")

    async def expire_offers(self) -> None:
        """Loop: end what was never sent and whose time to live is over (duty of one server)."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._leases.holds(OFFERS):
                await self.expire_late()

    async def expire_late(self) -> None:
        """End what has run out by now, unless it waits for a slot only."""
        unsent = partial(run_store.expired_offers, now=self._steady.now())
        if late := await self._database.read(unsent):
            nodes = {attempt.node for attempt in late}
            here = {node for node in nodes if self._slots(node)}
            why = {node: why for node in nodes if (why := _why_late(self._fleet, node))}
            await self._ingest.change(partial(self._expire, here=here, why=why))
            self._poke(*here)

    async def wake_later(self) -> None:
        """Loop: poke the nodes of attempts whose time has come (duty of one server)."""
        seen = EPOCH
        while True:
            await asyncio.sleep(LATER_TICK_S)
            now = self._steady.now()
            if not self._leases.holds(OFFERS):
                seen = EPOCH
                continue
            due = await self._database.read(
                partial(run_store.due_nodes, after=seen - OVERLAP, now=now)
            )
            self._poke(*due - {UNPLACED})
            seen = now

    def _expire(
        self, tx: Tx, here: set[str], why: Mapping[str, str]
    ) -> list[tuple[Attempt, Attempt]]:
        """The time to live is that of a node that is away; what waits for a node that is `here`
        waits for a slot of it, or for its dispatch, and waits on."""
        now, steady = self._clock.now(), self._steady.now()
        late = run_store.expired_offers(tx, steady)
        waiting = {attempt.id for attempt in late if attempt.node in here}
        run_store.postpone(tx, waiting, steady + timedelta(seconds=liveness.SILENT_AFTER_S))
        return [
            (attempt, machine.step(attempt, _late(why.get(attempt.node, "")), now))
            for attempt in late
            if attempt.id not in waiting
        ]

    def _talk(self, node: str, conversation: Coroutine[Any, Any, None]) -> None:
        self._talking.add(node)
        task = self._services.spawn(conversation, f"orders {node}")
        task.add_done_callback(lambda _: self._talked(node))

    def _talked(self, node: str) -> None:
        self._talking.discard(node)
        if node in self._again:
            self._again.discard(node)
            self._poke(node)

    async def _first_words(self, new: Attempt, order: Order) -> None:
        if self._orderer.reachable(new.node) and (
            offered := await self._offers.note(new.node, [new.id])
        ):
            item = order_item(Start(attempt=new.id), order)
            await self._ask_and_apply(new.node, (item,), offered)

    async def _conversation(
        self,
        node: str,
        commands: list[Command],
        attempts: dict[str, Attempt],
        orders: Mapping[str, Order],
    ) -> None:
        if not self._orderer.reachable(node):
            return
        starts = {c.attempt for c in commands if isinstance(c, Start)}
        items = [order_item(c, orders.get(attempts[c.attempt].run, Order())) for c in commands]
        for batch in batches(items):
            new = [item.attempt for item in batch if item.attempt in starts]
            offered = await self._offers.note(node, new)
            called_off = set(new) - offered.keys()
            wanted = tuple(item for item in batch if item.attempt not in called_off)
            first = {id: v for id, v in offered.items() if not attempts[id].offered}
            if wanted and not await self._ask_and_apply(node, wanted, first):
                return

    async def _ask_and_apply(
        self, node: str, batch: tuple[OrderItem, ...], offered: dict[str, int]
    ) -> bool:
        """Send one batch; False when the node did not answer. `offered` holds the versions of
        what was offered for the first time."""
        try:
            answers = await self._orderer.ask(node, batch)
            self._telemetry.emit(OrdersSent(node=node, orders=len(batch), answered=True))
        except Unavailable as error:
            self._telemetry.emit(OrdersSent(node=node, orders=len(batch), answered=False))
            if error.code == "no_responders" and offered:
                await self._database.write(partial(run_store.withdraw, offered=offered))
            return False
        except Invalid as error:
            return await self._too_large(node, batch, offered, error)
        await self._apply(node, answers, batch)
        return True

    async def _too_large(
        self, node: str, batch: tuple[OrderItem, ...], offered: dict[str, int], error: Invalid
    ) -> bool:
        """A message that the fabric does not take: its items go one by one, and a start that is
        too large by itself was never sent, offered before or not."""
        if len(batch) > 1:
            for item in batch:
                first = {id: offered[id] for id in offered.keys() & {item.attempt}}
                if not await self._ask_and_apply(node, (item,), first):
                    return False
            return True
        if isinstance(batch[0], StartAttempt):
            refused = machine.TurnedDown(reason=Reason.REFUSED, error=error.message)
            await self._ingest.apply([(batch[0].attempt, node, refused)])
        return True

    async def _apply(
        self, node: str, answers: tuple[AnswerItem, ...], asked: tuple[OrderItem, ...]
    ) -> None:
        events = []
        for item, answer in zip(asked, answers, strict=False):
            try:
                event = meaning(item, answer)
            except ValueError as error:
                self._ingest.rejected(f"an answer of {node}", str(error))
                continue
            if event is not None:
                events.append((item.attempt, node, event))
        if events:
            await self._ingest.apply(events)


def _why_late(fleet: Fleet, node: str) -> str:
    """Why a node was given nothing, when it was not simply away."""
    if node == UNPLACED:
        return NOT_PLACED
    try:
        return DRAINED if fleet.get(node).draining else ""
    except NotFound:
        return ""


def _late(why: str) -> machine.OfferExpired:
    return machine.OfferExpired(error=why) if why else machine.OfferExpired()


def _question(attempt: Attempt) -> OrderItem | None:
    """What to send about an attempt that its node lists otherwise than it is recorded."""
    if not attempt.released:
        return ReportAttempt(attempt=attempt.id)
    # one that was ended without the node's word holds output that nobody has archived
    reported = attempt.snapshot is not None and attempt.snapshot.accepted_at is not None
    return ReleaseAttempt(attempt=attempt.id) if reported and not attempt.log_gone else None
