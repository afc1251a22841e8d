"""Puts the trace side of a server together: the service, its loops, and who reads what is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from quarterdeck.control.changes import Changes
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.lease import Leases
from quarterdeck.control.output import Output
from quarterdeck.control.trace.archiver import Archiver
from quarterdeck.control.trace.beats import Beats
from quarterdeck.control.trace.kept import Keeping
from quarterdeck.control.trace.log import TraceLog
from quarterdeck.control.trace.service import Traces
from quarterdeck.control.trace.watch import TraceWatching
from quarterdeck.control.trace.window import Windows
from quarterdeck.core.room import MIB
from quarterdeck.fabric.base import Fabric
from quarterdeck.service import Clock, Poke, Services
from quarterdeck.settings import ServerSettings
from quarterdeck.store.archive import Archive
from quarterdeck.store.base import Database
from quarterdeck.telemetry import Telemetry

Loop = tuple[str, Callable[[], Awaitable[None]]]


class Tracing:
    """`traces` is what others call, `log` reads what was said and is not archived."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        database: Database,
        fabric: Fabric,
        archive: Archive,
        clock: Clock,
        telemetry: Telemetry,
        changes: Changes,
        leases: Leases,
        services: Services,
        server: str,
        new_id: Callable[[], str],
        room: Callable[[], str],
    ) -> None:
        seal = Poke()
        self.windows = Windows(
            database=database,
            fabric=fabric,
            changes=changes,
            telemetry=telemetry,
            window_s=settings.trace_window_s,
            window_bytes=settings.trace_window_mib * MIB,
        )
        self.traces = Traces(
            database=database,
            clock=clock,
            telemetry=telemetry,
            changes=changes,
            services=services,
            windows=self.windows,
            keeping=Keeping(
                database=database,
                fabric=fabric,
                archive=archive,
                most_bytes=settings.trace_kept_mib * MIB,
            ),
            seal=seal,
            new_id=new_id,
            room=room,
        )
        self.log = TraceLog(database=database, archive=archive, windows=self.windows)
        self._archiver = Archiver(
            database=database,
            archive=archive,
            log=self.log,
            traces=self.traces,
            services=services,
            clock=clock,
            telemetry=telemetry,
            leases=leases,
            server=server,
            poke=seal,
            window_s=settings.trace_window_s,
        )
        self._beats = Beats(database=database, clock=clock, leases=leases, traces=self.traces)
        self._watching = _watching(settings, database, fabric, changes, clock)

    def watching(self, output: Output, crowd: Crowd) -> TraceWatching:
        """Who watches names of traces; `output` reads what is kept of them."""
        return self._watching(output=output, crowd=crowd)

    def loops(self) -> tuple[Loop, ...]:
        """Every loop of traces, by name."""
        return (
            ("trace windows", self.windows.keep),
            ("trace beats", self._beats.write_beats),
            ("traces that come back", self._beats.bring_back),
            ("lost traces", self._beats.find_lost),
            ("ended traces", self._archiver.archive_ended),
            ("forgotten traces", self._archiver.forget_over),
        )


def _watching(
    settings: ServerSettings, database: Database, fabric: Fabric, changes: Changes, clock: Clock
) -> partial[TraceWatching]:
    return partial(
        TraceWatching,
        database=database,
        fabric=fabric,
        changes=changes,
        clock=clock,
        window_s=settings.trace_window_s,
    )
