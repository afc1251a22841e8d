"""The server without its HTTP face: puts store, fabric and loops together."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
from collections.abc import Awaitable, Callable
from pathlib import Path

from quarterdeck.control.access import take_over
from quarterdeck.control.admission import Admission
from quarterdeck.control.changes import Changes
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.dispatch import Dispatch
from quarterdeck.control.foreign.main import Foreign
from quarterdeck.control.ingest import Ingest
from quarterdeck.control.lease import Leases
from quarterdeck.control.lock import Locks
from quarterdeck.control.metrics import Metrics
from quarterdeck.control.moves import Full, Moves
from quarterdeck.control.observe import Fleet
from quarterdeck.control.orders import Orderer
from quarterdeck.control.output import Output
from quarterdeck.control.parts import Opener, open_parts
from quarterdeck.control.place import Placer
from quarterdeck.control.ready import Progress, Stage
from quarterdeck.control.requests import Requests
from quarterdeck.control.run import Runs
from quarterdeck.control.seal import Seal
from quarterdeck.control.status import Survey
from quarterdeck.control.steady import Steady
from quarterdeck.control.strays import Strays
from quarterdeck.control.streaming import Streaming
from quarterdeck.control.streams import Streams
from quarterdeck.control.trace.main import Tracing
from quarterdeck.control.watch import Watching
from quarterdeck.core.ids import RANDOM_BYTES, run_id
from quarterdeck.core.room import MIB, room
from quarterdeck.errors import Unavailable
from quarterdeck.fabric.base import Limits
from quarterdeck.service import Clock, Poke, Services, entropy, free_bytes, jitter
from quarterdeck.settings import ServerSettings, is_loopback, split_listen
from quarterdeck.store import access as access_store
from quarterdeck.store.measured import MeasuredDatabase
from quarterdeck.telemetry import (
    DatabaseTrouble,
    FabricConnected,
    FabricTrouble,
    Started,
    Stopped,
    Telemetry,
    UnitDone,
)
from quarterdeck.wire import subjects

DATABASE, FABRIC = "the database", "the fabric"


class Server:
    """Everything the API calls, and the loops behind it."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        telemetry: Telemetry,
        clock: Clock,
        opened: Opener = open_parts,
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.clock = clock
        self._data = Path(settings.data)
        self.services = Services(telemetry.loop_failed, clock)
        self.draining = asyncio.Event()
        self._stopped = False
        self.progress = Progress(clock)
        self.certificate = ""  # PEM of what callers are to pin
        self.fingerprint = ""
        self.url = ""  # where others reach the API
        self.parts = opened(settings, self.services, telemetry, clock)
        self.database = MeasuredDatabase(self.parts.database, clock, self._unit_done)
        self.steady = Steady(database=self.database, clock=clock)
        self.fabric = self.parts.fabric
        self._streams = Streams(
            fabric=self.fabric,
            limits=Limits(out_max_bytes=settings.out_max_mib * MIB),
            telemetry=telemetry,
            who=self.parts.id,
        )
        self.leases = Leases(
            database=self.database, clock=clock, telemetry=telemetry, server=self.parts.id
        )
        self.changes = Changes(self.parts.id, self.leases.alone)
        self.locks = Locks(
            database=self.database,
            clock=clock,
            telemetry=telemetry,
            changes=self.changes,
            draining=self.draining,
        )
        self._assemble()
        self.version = importlib.metadata.version("quarterdeck")
        self.metrics = Metrics(self.version)
        telemetry.subscribe(self.metrics.count)
        self.survey = Survey(
            services=self.services,
            clock=clock,
            database=self.database,
            fabric=self.fabric,
            fleet=self.fleet,
            crowd=self.watching.crowd,
            began=self.progress.began,
            foreign=self.foreign.views,
        )

    def _assemble(self) -> None:
        """Who knows whom; pokes are how a commit wakes the loop that acts on it."""
        dispatch, ask, seal, place = Poke(), Poke(), Poke(), Poke()
        self.fleet = Fleet(
            database=self.database,
            fabric=self.fabric,
            clock=self.clock,
            steady=self.steady,
            telemetry=self.telemetry,
            leases=self.leases,
            changes=self.changes,
            dispatch=dispatch,
            ask=ask,
        )
        full: Full = set()
        moves = Moves(
            changes=self.changes,
            telemetry=self.telemetry,
            steady=self.steady,
            dispatch=dispatch,
            seal=seal,
            place=place,
            full=full,
        )
        self._ingest = Ingest(
            database=self.database,
            fabric=self.fabric,
            clock=self.clock,
            telemetry=self.telemetry,
            moves=moves,
            steady=self.steady,
            services=self.services,
            believes=self.fleet.believes,
        )
        self.fleet.behind = self._ingest.behind
        orderer = Orderer(
            fabric=self.fabric, fleet=self.fleet, sign=self.parts.sign, new_id=self.new_id
        )
        self._dispatch = Dispatch(
            database=self.database,
            orderer=orderer,
            fleet=self.fleet,
            ingest=self._ingest,
            services=self.services,
            clock=self.clock,
            steady=self.steady,
            leases=self.leases,
            telemetry=self.telemetry,
            poke=dispatch,
            ask=ask,
            full=full,
        )
        self._assemble_runs(moves, place, full)
        self.changes.on_foreign(lambda _topics: seal())
        self.changes.on_foreign(lambda _topics: place())
        self._assemble_output(orderer, seal)
        self._assemble_enrolment(dispatch, orderer)

    def _assemble_runs(self, moves: Moves, place: Poke, full: Full) -> None:
        self.placer = Placer(
            database=self.database,
            fleet=self.fleet,
            clock=self.clock,
            steady=self.steady,
            leases=self.leases,
            moves=moves,
            chance=jitter,
            poke=place,
            full=full,
        )
        self.runs = Runs(
            database=self.database,
            fleet=self.fleet,
            clock=self.clock,
            steady=self.steady,
            telemetry=self.telemetry,
            moves=moves,
            leases=self.leases,
            begin=self._dispatch.begin,
            place=place,
            new_id=self.new_id,
            room=self.room,
        )
        self.requests = Requests(
            database=self.database,
            fleet=self.fleet,
            clock=self.clock,
            steady=self.steady,
            moves=moves,
        )

    def _assemble_output(self, orderer: Orderer, seal: Poke) -> None:
        archive = self.parts.archive
        self.tracing = Tracing(
            self.settings,
            database=self.database,
            fabric=self.fabric,
            archive=archive,
            clock=self.clock,
            telemetry=self.telemetry,
            changes=self.changes,
            leases=self.leases,
            services=self.services,
            server=self.parts.id,
            new_id=self.new_id,
            room=self.room,
        )
        self.traces = self.tracing.traces
        self.foreign = Foreign(
            self.settings, traces=self.traces, clock=self.clock, telemetry=self.telemetry
        )
        self.output = Output(
            database=self.database,
            fabric=self.fabric,
            archive=archive,
            orderer=orderer,
            traces=self.tracing.log,
        )
        self._seal = Seal(
            database=self.database,
            fabric=self.fabric,
            archive=archive,
            output=self.output,
            ingest=self._ingest,
            services=self.services,
            clock=self.clock,
            telemetry=self.telemetry,
            leases=self.leases,
            server=self.parts.id,
            poke=seal,
        )
        self._strays = Strays(
            database=self.database,
            fabric=self.fabric,
            leases=self.leases,
            telemetry=self.telemetry,
        )
        crowd = Crowd(self.settings.max_streams)
        self.watching = Watching(
            database=self.database,
            fabric=self.fabric,
            output=self.output,
            changes=self.changes,
            crowd=crowd,
        )
        self.trace_watching = self.tracing.watching(self.output, crowd)

    def _assemble_enrolment(self, dispatch: Poke, orderer: Orderer) -> None:
        self.streaming = Streaming(database=self.database, clock=self.clock)
        admitted = Admission(
            parts=self.parts,
            database=self.database,
            fleet=self.fleet,
            orderer=orderer,
            ingest=self._ingest,
            services=self.services,
            leases=self.leases,
            changes=self.changes,
            clock=self.clock,
            telemetry=self.telemetry,
            dispatch=dispatch,
            new_id=self.new_id,
            fingerprint=lambda: self.fingerprint,
            draining=self.draining,
        )
        self.nodes = admitted.nodes
        self.agentless = admitted.agentless
        self.enrolments = admitted.enrolments
        self.leaves = admitted.leaves
        self.tokens = admitted.tokens
        self.removals = admitted.removals
        self._uses, self._principals = admitted.uses, admitted.principals

    async def start(self) -> None:
        """Waits for what is away, and says so. Raises Conflict, Denied or Invalid."""
        await self._until_there(DATABASE, self._open_record)
        await self.progress.reach(Stage.RECORD)
        await self._until_there(FABRIC, self._connect)
        self.fabric.on_connect(lambda: self.telemetry.emit(FabricConnected(who=self.parts.id)))
        self._streams.watch()
        self.tracing.windows.watch()
        await self.fabric.subscribe(subjects.CHANGED, self.changes.heard)
        await self._until_there(DATABASE, self.leases.round)
        await self.fleet.listen()
        for name, loop in (
            ("leases", self.leases.keep),
            ("streams", self._streams.keep),
            ("changes", lambda: self.changes.announce(self.fabric)),
            ("strangers", self.fleet.meet_strangers),
            ("beats", self.fleet.watch_beats),
            ("hello", self.fleet.ask_for_beats),
            ("ingest", self._ingest.take_facts),
            ("dispatch", self._dispatch.send_orders),
            ("journals", self._dispatch.ask_journals),
            ("offers", self._dispatch.expire_offers),
            ("later", self._dispatch.wake_later),
            ("places", self.placer.place_tasks),
            ("due runs", self.runs.step_due),
            ("deadlines", self.runs.keep_deadlines),
            ("seal", self._seal.seal_logs),
            ("purge", self._seal.purge_cache),
            ("voided tokens", self.streaming.cut_voided),
            ("token uses", self._uses.write_uses),
            ("old tokens", self._uses.forget_minted),
            ("strays", self._strays.purge_strays),
            ("removals", self.removals.cut_off),
            ("agentless", self.agentless.deliver),
            ("locks", self.locks.watch_beats),
            ("decisions", self.nodes.follow_decisions),
            *self.tracing.loops(),
            *self.foreign.loops(),
        ):
            self.services.loop(name, loop)
        await self.foreign.listen()
        await self.progress.reach(Stage.WHOLE)
        self.telemetry.emit(Started(what="server", where=self.settings.listen))

    async def stop(self) -> None:
        await self.foreign.stop()
        await self.services.stop()
        with contextlib.suppress(Unavailable):
            await self.leases.give_back()
        await self.fabric.stop()
        await self.database.stop()
        if not self._stopped:
            self._stopped = True
            self.parts.let_go()
        self.telemetry.emit(Stopped(what="server"))

    def ready(self) -> str:
        """Empty when the server can do its work, else why not."""
        if missing := self.progress.missing():
            return missing
        if self.draining.is_set():
            return "The server is stopping."
        return self._streams.trouble if self.fabric.connected else "The link to the fabric is down."

    def _unit_done(self, kind: str, seconds: float, failed: bool) -> None:
        self.telemetry.emit(UnitDone(kind=kind, seconds=seconds, failed=failed))

    @property
    def metrics_open(self) -> bool:
        """Whether `/metrics` needs no token: by the setting, else when only this machine asks."""
        if self.settings.metrics != "auto":
            return self.settings.metrics == "open"
        return is_loopback(split_listen(self.settings.listen)[0])

    def room(self) -> str:
        """Empty when the disk has room for new work, else a sentence."""
        return room(free_bytes(self._data), self.settings.min_free_mib, str(self._data))

    def new_id(self) -> str:
        """A fresh id, sorted by time."""
        now_ms = int(self.clock.now().timestamp() * 1000)
        return run_id(now_ms, entropy(RANDOM_BYTES))

    async def principal(self, token: str) -> access_store.Principal:
        """Who a token stands for. Raises Denied."""
        return await self._principals.of(token)

    async def _until_there(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        def told(error: str) -> None:
            if what == FABRIC:
                self.telemetry.emit(FabricTrouble(who=self.parts.id, error=error))
            else:
                self.telemetry.emit(DatabaseTrouble(error=error))

        await self.progress.until_there(what, work, told)

    async def _open_record(self) -> None:
        await self.database.start()
        await self.steady.begin()
        await take_over(self.database, self._data / "tokens", self.clock.now())
        await self.fleet.load()

    async def _connect(self) -> None:
        await self.fabric.start()
        await self._streams.ensure()
