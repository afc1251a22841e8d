"""The agent: puts the parts of a node together, starts and stops them.

Order of start: the state directory's lock, the journal (what ran is followed again at once, with
or without a server), the identity, the fabric, orders and beats. A stop leaves shims alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from quarterdeck.agent.enrol import Member
from quarterdeck.agent.follow import Follower
from quarterdeck.agent.journal import Journal
from quarterdeck.agent.observe import Beats, Figures, room
from quarterdeck.agent.orders import OrderDesk
from quarterdeck.agent.outbox import Outbox
from quarterdeck.agent.output import Sender, Window
from quarterdeck.agent.process import Spawner
from quarterdeck.agent.run import Attempts
from quarterdeck.errors import Conflict, Denied, Unavailable
from quarterdeck.fabric.nats.fabric import NatsFabric
from quarterdeck.service import Clock, Services, entropy, jitter, still_wanted
from quarterdeck.settings import AgentSettings, task_environment
from quarterdeck.telemetry import FabricConnected, FabricTrouble, Started, Stopped, Telemetry
from quarterdeck.wire import subjects

FIRST_WAIT_S = 0.1
MAX_WAIT_S = 5.0
MOVED_AFTER_S = 0.4
TOMBSTONE_AGE_S = 7 * 86_400
PRUNE_EVERY_S = 3600.0


class Agent:
    """One node's process. `start` returns when the node is on the fabric."""

    def __init__(self, settings: AgentSettings, *, telemetry: Telemetry, clock: Clock) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._services = Services(telemetry.loop_failed, clock)
        self._state = Path(settings.state)
        self._session = entropy(8).hex()
        self._lock: int | None = None
        self._spawner = Spawner()
        self._follower = Follower()
        self._fabric: NatsFabric | None = None

    async def start(self) -> None:
        """Raises Conflict, Invalid or Denied with a sentence; waits for servers that are away."""
        try:
            self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(self._state)
            journal = Journal(self._state)
        except OSError as error:
            raise Unavailable(
                "state_directory",
                f"The state directory {self._state} can't be used: {error.strerror or error}.",
            ) from error
        member = Member(self._state, self._clock)
        await self._join(member)
        node = member.kept.credentials.node
        fabric = self._fabric = NatsFabric(
            member.kept.credentials.fabric_urls,
            node,
            jwt_source=member.jwt,
            signer=member.key.sign,
            spawn=self._services.spawn,
            random=jitter,
            on_error=lambda text: self._telemetry.emit(FabricTrouble(who=node, error=text)),
        )
        self._follower.start()
        self._spawner.start()
        attempts, outbox = self._attempts(node, journal, fabric)
        attempts.resume()
        self._services.loop("facts", outbox.send_facts)
        self._services.loop("tombstones", lambda: self._prune(journal))
        self._services.loop("renewal", lambda: self._renew(member, fabric))
        await self._connect(fabric, member)
        await self._serve(node, member, journal, fabric, attempts)
        self._telemetry.emit(Started(what="agent", where=node))

    async def stop(self) -> None:
        await self._services.stop()
        if self._fabric is not None:
            await self._fabric.stop()
            self._fabric = None
        self._follower.stop()
        self._spawner.stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            self._telemetry.emit(Stopped(what="agent"))

    def _attempts(self, node: str, journal: Journal, fabric: NatsFabric) -> tuple[Attempts, Outbox]:
        outbox = Outbox(node=node, fabric=fabric, services=self._services)
        window = Window()

        def new_sender(attempt: str) -> Sender:
            return Sender(
                attempt=attempt,
                node=node,
                journal=journal,
                fabric=fabric,
                window=window,
                clock=self._clock,
            )

        attempts = Attempts(
            journal=journal,
            spawner=self._spawner,
            follower=self._follower,
            outbox=outbox,
            new_sender=new_sender,
            services=self._services,
            clock=self._clock,
            telemetry=self._telemetry,
            environ=task_environment(),
        )
        return attempts, outbox

    async def _join(self, member: Member) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                await member.open(
                    server=self._settings.join,
                    token=self._settings.token.reveal(),
                    name=self._settings.name,
                )
                return
            except Unavailable as error:
                if wait_s == FIRST_WAIT_S:
                    self._telemetry.emit(FabricTrouble(who="agent", error=error.message))
                await asyncio.sleep(wait_s * (0.5 + jitter() / 2))
                wait_s = min(wait_s * 2, MAX_WAIT_S)

    async def _connect(self, fabric: NatsFabric, member: Member) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                await fabric.start()
                return
            except Denied as error:
                self._telemetry.emit(FabricTrouble(who="agent", error=error.message))
                await self._refresh(member)
            except Unavailable as error:
                self._telemetry.emit(FabricTrouble(who="agent", error=error.message))
                if wait_s >= MOVED_AFTER_S:  # it may have moved: the server knows where to
                    await self._refresh(member)
                    fabric.move(member.kept.credentials.fabric_urls)
            still_wanted()
            await asyncio.sleep(wait_s * (0.5 + jitter() / 2))
            wait_s = min(wait_s * 2, MAX_WAIT_S)

    async def _refresh(self, member: Member) -> None:
        try:
            await member.refresh()
        except Unavailable as error:
            self._telemetry.emit(FabricTrouble(who="agent", error=error.message))

    async def _serve(
        self,
        node: str,
        member: Member,
        journal: Journal,
        fabric: NatsFabric,
        attempts: Attempts,
    ) -> None:
        def full() -> str:
            return room(self._state, self._settings.min_free_mib)

        desk = OrderDesk(
            node=node,
            session=self._session,
            order_keys=lambda: member.kept.credentials.order_keys,
            fabric=fabric,
            journal=journal,
            attempts=attempts,
            services=self._services,
            telemetry=self._telemetry,
            full=full,
            beat=lambda: beats.now("orders"),
        )
        beats = Beats(
            node=node,
            name=self._settings.name,
            session=self._session,
            labels=self._settings.labels,
            every_s=self._settings.heartbeat_s,
            fabric=fabric,
            clock=self._clock,
            figures=Figures(self._state),
            unreleased=attempts.unreleased,
            full=full,
            contact=self._state / "contact",
            contact_counts=attempts.contact_counts,
        )

        def connected() -> None:
            self._telemetry.emit(FabricConnected(who=node))
            beats.now("connected")

        fabric.on_connect(connected)
        await fabric.subscribe(subjects.orders(node), desk.receive)
        await fabric.subscribe(subjects.beat_now(node), beats.asked)
        self._services.loop("beats", beats.beat_on)

    async def _renew(self, member: Member, fabric: NatsFabric) -> None:
        """Loop: a new pass at half of its life; the link is made anew to use it."""
        while True:
            await member.until_half_life()
            await member.refresh()
            fabric.reconnect()

    async def _prune(self, journal: Journal) -> None:
        """Loop: old tombstones go; no order is that old."""
        while True:
            await asyncio.to_thread(journal.prune, self._clock.now().timestamp() - TOMBSTONE_AGE_S)
            await asyncio.sleep(PRUNE_EVERY_S)


def _lock(state: Path) -> int:
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Conflict(
            "state_in_use",
            f"The state directory {state} is in use by another agent; stop it first, "
            "or give this one a directory of its own.",
        ) from error
    return fd
