"""The agent: puts the parts of a node together, starts and stops them.

Order of start: the machine (its state directory is taken), the identity, what ran is followed
again at once, with or without a server, then the fabric, orders and beats. A stop leaves shims
alone.
"""

from __future__ import annotations

import asyncio

from quarterdeck.agent.host import Host
from quarterdeck.agent.observe import Beats
from quarterdeck.agent.orders import OrderDesk
from quarterdeck.agent.outbox import Outbox
from quarterdeck.agent.output import Sender, Window
from quarterdeck.agent.parts import FIRST_WAIT_S, MAX_WAIT_S, Link, Opener, open_parts
from quarterdeck.agent.run import Attempts
from quarterdeck.agent.settle import Settling
from quarterdeck.core.label import check_labels
from quarterdeck.core.room import room
from quarterdeck.errors import Denied, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.service import Backoff, Clock, Services, entropy, still_wanted
from quarterdeck.settings import AgentSettings
from quarterdeck.telemetry import FabricConnected, FabricTrouble, Started, Stopped, Telemetry
from quarterdeck.wire import subjects

MOVED_AFTER = 2  # failures
TOMBSTONE_AGE_S = 7 * 86_400
PRUNE_EVERY_S = 3600.0


class Agent:
    """One node's process. `start` returns when the node is on the fabric."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        telemetry: Telemetry,
        clock: Clock,
        opened: Opener = open_parts,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._services = Services(telemetry.loop_failed, clock)
        self._session = entropy(8).hex()
        self._parts = opened(settings, self._services, telemetry, clock)
        self._host: Host = self._parts.host
        self._fabric: Fabric | None = None
        self._running = False

    async def start(self) -> None:
        """Raises Conflict, Invalid or Denied with a sentence; waits for servers that are away."""
        check_labels(self._settings.labels)
        await self._host.start()
        self._running = True
        link = await self._parts.join()
        self._fabric = link.fabric
        settling = Settling(self._clock, self._settings.heartbeat_s)
        attempts, outbox = self._attempts(link, settling)
        attempts.resume()
        self._services.loop("facts", outbox.send_facts)
        self._services.loop("tombstones", self._prune)
        self._services.loop("renewal", link.renew)
        await self._connect(link)
        await self._serve(link, attempts, settling)
        self._telemetry.emit(Started(what="agent", where=link.node))

    async def stop(self) -> None:
        await self._services.stop()
        if self._fabric is not None:
            await self._fabric.stop()
            self._fabric = None
        await self._host.stop()
        if self._running:
            self._running = False
            self._telemetry.emit(Stopped(what="agent"))

    def doing(self) -> list[str]:
        """The names of what runs now, also while it stops."""
        return self._services.doing()

    def _attempts(self, link: Link, settling: Settling) -> tuple[Attempts, Outbox]:
        outbox = Outbox(
            node=link.node,
            session=self._session,
            fabric=link.fabric,
            services=self._services,
            telemetry=self._telemetry,
        )
        window = Window()

        def new_sender(attempt: str) -> Sender:
            return Sender(
                attempt=attempt,
                node=link.node,
                spool=self._host.spool(attempt),
                fabric=link.fabric,
                window=window,
                clock=self._clock,
            )

        attempts = Attempts(
            host=self._host,
            outbox=outbox,
            settling=settling,
            new_sender=new_sender,
            services=self._services,
            clock=self._clock,
            telemetry=self._telemetry,
        )
        return attempts, outbox

    async def _connect(self, link: Link) -> None:
        backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S)
        while True:
            try:
                await link.fabric.start()
                return
            except Denied as error:
                self._telemetry.emit(FabricTrouble(who="agent", error=error.message))
                await link.refresh()
            except Unavailable as error:
                self._telemetry.emit(FabricTrouble(who="agent", error=error.message))
                if backoff.failures >= MOVED_AFTER:  # it may have moved: the server knows where to
                    await link.refresh()
            still_wanted()
            await asyncio.sleep(backoff.wait_s())

    def _begun(self, link: Link) -> str:
        try:
            return link.begin(self._session)
        except OSError as error:
            raise Unavailable(
                "state_directory",
                f"The state directory {self._settings.state} can't be written: "
                f"{error.strerror or error}.",
            ) from error

    async def _serve(self, link: Link, attempts: Attempts, settling: Settling) -> None:
        def full() -> str:
            free = self._host.free_bytes()
            where = self._parts.disk or self._settings.state
            return room(free, self._settings.min_free_mib, where)

        proxy = self._parts.proxy
        desk = OrderDesk(
            node=link.node,
            session=self._session,
            order_keys=link.order_keys,
            fabric=link.fabric,
            host=self._host,
            attempts=attempts,
            services=self._services,
            telemetry=self._telemetry,
            full=full,
            beat=lambda: beats.now("orders"),
            keep=None if proxy is None else proxy.keep,
        )
        beats = Beats(
            node=link.node,
            name=self._settings.name,
            session=self._session,
            before=self._begun(link),
            labels=self._settings.labels,
            slots=self._settings.slots,
            every_s=self._settings.heartbeat_s,
            fabric=link.fabric,
            host=self._host,
            clock=self._clock,
            unreleased=attempts.unreleased,
            full=full,
            contact_counts=attempts.contact_counts,
            settling=settling,
            agentless=None if proxy is None else proxy.report,
        )

        def connected() -> None:
            self._telemetry.emit(FabricConnected(who=link.node))
            beats.now("connected")

        link.fabric.on_connect(connected)
        await link.fabric.subscribe(subjects.orders(link.node), desk.receive)
        await link.fabric.subscribe(subjects.beat_now(link.node), beats.asked)
        self._services.loop("beats", beats.beat_on)
        if proxy is not None:
            proxy.start(link, lambda: beats.now("agentless"))

    async def _prune(self) -> None:
        """Loop: old tombstones go; no order is that old."""
        while True:
            await self._host.prune(self._clock.now().timestamp() - TOMBSTONE_AGE_S)
            await asyncio.sleep(PRUNE_EVERY_S)
