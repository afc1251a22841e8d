"""What becomes of traces that are over: kept ones are archived, ephemeral ones forgotten.

`archive_ended` waits for pokes (a kept trace ended) and a tick of `TICK_S`: the pieces of a trace
become one log in the archive, as of any attempt, and only then people are told of its end. A lost
one is archived when its sender was not heard of for a day.

`forget_over` waits for a tick of `FORGET_S` (duty of one server): an ephemeral trace goes when its
end, or the last that was heard of its sender, is older than the window: so are its chunks then.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path

from quarterdeck.control.lease import TRACES, Leases
from quarterdeck.control.step import write_guarded
from quarterdeck.control.trace.kept import pieces_prefix
from quarterdeck.control.trace.log import TraceLog
from quarterdeck.control.trace.service import Traces
from quarterdeck.core.model import STREAMS
from quarterdeck.core.trace import FINAL_AFTER_S, Trace, archived, may_seal
from quarterdeck.core.traced import attempt_of_trace
from quarterdeck.service import Clock, Poke, Services, guarded, sentence
from quarterdeck.store import log as log_store
from quarterdeck.store import piece as piece_store
from quarterdeck.store import trace as trace_store
from quarterdeck.store.archive import (
    INLINE_BYTES,
    MARKS,
    Archive,
    FrameWriter,
    SealedLog,
    StreamLayout,
    object_key,
)
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import LogSealed, SealFailed, Telemetry
from quarterdeck.telemetry.trace import TracesExpired
from quarterdeck.wire.marks import encode_marks

TICK_S = 2.0
FORGET_S = 5.0
AT_ONCE = 4
LISTED = 100
FORGOTTEN = 500
RETRY_S = 10.0


class Archiver:
    """The loops."""

    def __init__(
        self,
        *,
        database: Database,
        archive: Archive,
        log: TraceLog,
        traces: Traces,
        services: Services,
        clock: Clock,
        telemetry: Telemetry,
        leases: Leases,
        server: str,
        poke: Poke,
        window_s: float,
    ) -> None:
        self._database = database
        self._archive = archive
        self._log = log
        self._traces = traces
        self._services = services
        self._clock = clock
        self._telemetry = telemetry
        self._leases = leases
        self._server = server
        self._poke = poke
        self._window_s = window_s
        self._busy: set[str] = set()
        self._later: dict[str, float] = {}

    async def archive_ended(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await self._poke.wait(TICK_S)
            now = self._clock.monotonic()
            self._later = {id: at for id, at in self._later.items() if at > now}
            before = self._clock.now() - timedelta(seconds=FINAL_AFTER_S)
            after = ""
            while len(self._busy) < AT_ONCE:
                page = await self._database.read(
                    partial(trace_store.to_seal, before=before, limit=LISTED, after=after)
                )
                for trace in page:
                    self._begin(trace)
                if len(page) < LISTED:
                    break
                after = page[-1].id  # behind those that fail, or are another server's

    async def forget_over(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await asyncio.sleep(FORGET_S)
            if not self._leases.holds(TRACES):
                continue
            before = self._clock.now() - timedelta(seconds=self._window_s)
            gone = await self._database.read(
                partial(trace_store.expired, before=before, limit=FORGOTTEN)
            )
            if gone:
                await self._database.write(partial(trace_store.remove, ids=gone), bulk=True)
                self._telemetry.emit(TracesExpired(traces=len(gone)))

    def _begin(self, trace: Trace) -> None:
        free = trace.id not in self._busy and trace.id not in self._later
        if free and len(self._busy) < AT_ONCE and self._leases.mine(trace.id):
            self._busy.add(trace.id)
            self._services.spawn(self._one(trace), f"archive trace {trace.id}")

    async def _one(self, trace: Trace) -> None:
        try:
            failed: Exception | None = await guarded(self._do(trace), _itself)
            if failed is not None:
                self._later[trace.id] = self._clock.monotonic() + RETRY_S
                self._telemetry.emit(
                    SealFailed(attempt=trace.id, error=sentence(failed), retry_s=RETRY_S)
                )
        finally:
            self._busy.discard(trace.id)
            self._poke()

    async def _do(self, trace: Trace) -> None:
        began = self._clock.monotonic()
        attempt = attempt_of_trace(trace.id)
        work = self._archive.work
        writers = {s: FrameWriter(work / f"{attempt}.{s}") for s in (*STREAMS, MARKS)}
        try:
            for stream in STREAMS:
                async for data in self._log.pieces(trace, stream, 0, trace.bytes.of(stream)):
                    await asyncio.to_thread(writers[stream].feed, data)
            marks = encode_marks(await self._log.marks(trace))
            await asyncio.to_thread(writers[MARKS].feed, marks)
            layout = {s: await asyncio.to_thread(one.finish) for s, one in writers.items()}
            paths = {stream: writer.path for stream, writer in writers.items()}
            log = await self._stored(trace, attempt, paths, layout)
        finally:
            for writer in writers.values():
                writer.discard()
        if not await self._commit(trace, log):
            await self._drop(log)
            return
        await self._archive.delete_below(pieces_prefix(trace.id))
        size = sum(layout[stream].bytes for stream in STREAMS)
        seconds = self._clock.monotonic() - began
        self._telemetry.emit(LogSealed(attempt=attempt, bytes=size, seconds=seconds))

    async def _stored(
        self, trace: Trace, attempt: str, paths: dict[str, Path], layout: dict[str, StreamLayout]
    ) -> SealedLog:
        if sum(part.bytes for part in layout.values()) <= INLINE_BYTES:
            inline = {stream: path.read_bytes() for stream, path in paths.items()}
            return SealedLog(attempt=attempt, inline=inline, layout=layout)
        prefix = f"{trace.id}/{attempt}.{self._server}"
        for stream, path in paths.items():
            await self._archive.put(object_key(prefix, stream), path)
        return SealedLog(attempt=attempt, object=prefix, layout=layout)

    async def _commit(self, trace: Trace, log: SealedLog) -> bool:
        """Whether this log counts: no other server was quicker, nothing came meanwhile."""
        now = self._clock.now()

        def write(tx: Tx) -> tuple[Trace, Trace] | None:
            before = trace_store.get(tx, trace.id)
            if before.bytes != trace.bytes or not may_seal(before, now):
                return None
            log_store.save(tx, [log])
            piece_store.drop(tx, trace.id)
            hashes = trace_store.hashes_of(log)
            return before, trace_store.save(tx, before, archived(before), hashes=hashes)

        changed = await write_guarded(self._database, write)
        if changed is None:
            return False
        self._traces.moved(*changed)
        return True

    async def _drop(self, log: SealedLog) -> None:
        if log.object is not None:
            for stream in log.layout:
                await self._archive.delete(object_key(log.object, stream))


def _itself(error: Exception) -> Exception:
    return error
