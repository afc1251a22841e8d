"""The seal loop: output of ended attempts goes into the archive, checked by length and sha256.

Waits for: pokes after each commit of facts, and a tick of `TICK_S`. For each ended, unsealed
attempt it puts both streams together from the cache; what the cache lacks is read from the node's
own files. Only when length and hash are those of the final snapshot is the log committed; then the
node is told to delete its directory, and the cache is emptied a minute later. What was silent is
sealed by the page, without a look at anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from quarterdeck.control.ingest import Ingest
from quarterdeck.control.lease import PURGE, Leases
from quarterdeck.control.output import Output, marks_left
from quarterdeck.core import attempt as machine
from quarterdeck.core.model import STREAMS, Attempt, Snapshot, StreamEnd
from quarterdeck.core.stream import LIMIT_SLACK, Gap, Mark, splice
from quarterdeck.errors import Broken, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.service import Clock, Poke, Services, guarded, sentence
from quarterdeck.store import log as log_store
from quarterdeck.store import run as run_store
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
from quarterdeck.telemetry import (
    LogMismatch,
    LogPulled,
    LogReread,
    LogSealed,
    SealFailed,
    Telemetry,
)
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk
from quarterdeck.wire.marks import MOST_MARKS, encode_marks

TICK_S = 2.0
GATHER_S = 0.02
GIVE_WAY_S = 2.0
WAY_LOOK_S = 0.2
AT_ONCE = 4
AT_ONCE_PER_NODE = 2
CANDIDATES = 500
RETRY_S = 5.0
GONE = ("output_lost", "output_too_long")
MAX_RETRY_S = 120.0
PURGE_AFTER = timedelta(seconds=60)


class Seal:
    """Archives the output of ended attempts, a few at a time."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        archive: Archive,
        output: Output,
        ingest: Ingest,
        services: Services,
        clock: Clock,
        telemetry: Telemetry,
        leases: Leases,
        server: str,
        poke: Poke,
    ) -> None:
        self._leases = leases
        self._server = server
        self._database = database
        self._fabric = fabric
        self._archive = archive
        self._output = output
        self._ingest = ingest
        self._services = services
        self._clock = clock
        self._telemetry = telemetry
        self._poke = poke
        self._busy: dict[str, str] = {}
        self._gave_way_s = 0.0
        self._later: dict[str, tuple[float, float]] = {}

    async def seal_logs(self) -> None:
        """Loop: keep up to `AT_ONCE` sealings under way."""
        while True:
            await self._poke.wait(TICK_S)
            await self._give_way()
            now = self._clock.monotonic()
            self._later = recent(self._later, now)
            resting = {id for id, (at, _) in self._later.items() if at > now}
            after = ""
            while len(self._busy) < AT_ONCE:
                skip = self._busy.keys() | resting
                page = await self._database.read(
                    partial(run_store.to_seal, limit=CANDIDATES, skip=skip, after=after)
                )
                mine = [attempt for attempt in page if self._leases.mine(attempt.id)]
                await self._seal_silent([attempt for attempt in mine if _is_silent(attempt)])
                for attempt in mine:
                    if not _is_silent(attempt):
                        self._begin(attempt)
                if len(page) < CANDIDATES:
                    break
                after = page[-1].id

    async def _give_way(self) -> None:
        """Who waits for ends is served before their archive: a moment, and while many come at once
        up to `GIVE_WAY_S` in all; those who go on coming are not waited for again."""
        await asyncio.sleep(GATHER_S)
        if not self._ingest.crowded:
            self._gave_way_s = 0.0
        while self._ingest.crowded and self._gave_way_s < GIVE_WAY_S:
            await asyncio.sleep(WAY_LOOK_S)
            self._gave_way_s += WAY_LOOK_S

    async def _seal_silent(self, silent: Sequence[Attempt]) -> None:
        """All in one unit; what fails is tried one by one, as the others are."""
        if silent:
            logs = [SealedLog(attempt=attempt.id) for attempt in silent]
            failed: Exception | bool = await guarded(self._commit(logs), _itself)
            for attempt in silent if isinstance(failed, Exception) else ():
                self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        """Seal an attempt now, unless there is no room."""
        busy = list(self._busy.values())
        if len(busy) < AT_ONCE and busy.count(attempt.node) < AT_ONCE_PER_NODE:
            self._busy[attempt.id] = attempt.node
            self._services.spawn(self._one(attempt), f"seal {attempt.id}")

    async def purge_cache(self) -> None:
        """Loop: drop from the cache what was archived a minute ago (duty of one server)."""
        while True:
            await asyncio.sleep(TICK_S)
            if not self._leases.holds(PURGE):
                continue
            before = self._clock.now() - PURGE_AFTER
            old = await self._database.read(partial(run_store.to_purge, before=before, limit=200))
            for attempt in old:
                subject = subjects.output(attempt.node, attempt.run, attempt.id)
                await self._fabric.purge(subjects.OUT, subject)
            ids = [attempt.id for attempt in old]
            if ids:
                await self._database.write(
                    partial(run_store.mark_purged, ids=ids),
                    bulk=True,
                )

    async def _one(self, attempt: Attempt) -> None:
        try:
            done: bool | Exception = await guarded(self._seal(attempt), _itself)
            _, pause_s = self._later.pop(attempt.id, (0.0, RETRY_S / 2))
            if done is not True:
                pause_s = min(pause_s * 2, MAX_RETRY_S)
                self._later[attempt.id] = (self._clock.monotonic() + pause_s, pause_s)
            if isinstance(done, Exception):
                self._failed(attempt, done, pause_s)
        finally:
            del self._busy[attempt.id]
            self._poke()

    def _failed(self, attempt: Attempt, error: Exception, retry_s: float) -> None:
        if isinstance(error, Broken) and error.code in GONE:
            event = machine.Vanished(error=error.message)
            gone = self._ingest.apply([(attempt.id, attempt.node, event)])
            self._services.spawn(gone, f"output of {attempt.id} is lost")
        if not isinstance(error, Unavailable):
            told = sentence(error)
            self._services.note("seal", f"{attempt.id}: {told}")
            self._telemetry.emit(SealFailed(attempt=attempt.id, error=told, retry_s=retry_s))

    async def _seal(self, attempt: Attempt) -> bool:
        began = self._clock.monotonic()
        snapshot = attempt.snapshot
        assert snapshot is not None
        if _is_silent(attempt):
            await self._commit([SealedLog(attempt=attempt.id)])
            return True
        if not attempt.log_gone:
            await self._check_length(attempt, machine.log_length(snapshot))
        job = _Assembly(attempt, snapshot, self._archive.work, self._output, self._telemetry)
        try:
            layout = await job.build(complete=not attempt.log_gone)
            if layout is None:
                self._telemetry.emit(LogMismatch(attempt=attempt.id))
                return False
            log = await self._stored(attempt, job.paths, layout)
            if not await self._commit([log]):
                await self._drop(log)
                return True
        finally:
            job.discard()
        self._telemetry.emit(
            LogSealed(
                attempt=attempt.id,
                bytes=sum(layout[s].bytes for s in STREAMS),
                seconds=self._clock.monotonic() - began,
            )
        )
        return True

    async def _check_length(self, attempt: Attempt, length: int) -> None:
        """Raises Broken for a claim of more output than the order can have given."""
        if length <= LIMIT_SLACK:
            return
        limit = await self._output.most(attempt.run)
        if length > limit:
            raise Broken(
                "output_too_long",
                f"The node says that {attempt.id} wrote {length} bytes, but its order allows "
                f"{limit}: only what the servers have of it is archived. Look at that node.",
            )

    async def _stored(
        self, attempt: Attempt, paths: dict[str, Path], layout: dict[str, StreamLayout]
    ) -> SealedLog:
        if sum(part.bytes for part in layout.values()) <= INLINE_BYTES:
            inline = {stream: path.read_bytes() for stream, path in paths.items()}
            return SealedLog(attempt=attempt.id, inline=inline, layout=layout)
        # two servers that seal one attempt must not write over each other's objects
        prefix = f"{attempt.run}/{attempt.id}.{self._server}"
        for stream, path in paths.items():
            await self._archive.put(object_key(prefix, stream), path)
        return SealedLog(attempt=attempt.id, object=prefix, layout=layout)

    async def _commit(self, logs: Sequence[SealedLog]) -> bool:
        """Record where logs lie, of those that no other server has sealed before; whether there
        was any."""

        def unit(tx: Tx) -> list[tuple[Attempt, Attempt]]:
            found = run_store.attempts_by_id(tx, [log.attempt for log in logs])
            open_ones = {id: attempt for id, attempt in found.items() if not attempt.sealed}
            log_store.save(tx, [log for log in logs if log.attempt in open_ones])
            now = self._clock.now()
            return [(a, machine.step(a, machine.Sealed(), now)) for a in open_ones.values()]

        return await self._ingest.change(unit)

    async def _drop(self, log: SealedLog) -> None:
        """Another server was quicker: its objects count."""
        if log.object is not None:
            for stream in log.layout:
                await self._archive.delete(object_key(log.object, stream))


class _Assembly:
    """Puts the streams of one attempt together into compressed files."""

    def __init__(
        self,
        attempt: Attempt,
        snapshot: Snapshot,
        directory: Path,
        output: Output,
        telemetry: Telemetry,
    ) -> None:
        self._attempt = attempt
        self._ends = {"stdout": snapshot.stdout, "stderr": snapshot.stderr}
        self._output = output
        self._telemetry = telemetry
        self._marks: list[Mark] = []
        self._pulled = False
        self.paths = {stream: directory / f"{attempt.id}.{stream}" for stream in (*STREAMS, MARKS)}
        self._writers = {stream: FrameWriter(path) for stream, path in self.paths.items()}

    async def build(self, *, complete: bool) -> dict[str, StreamLayout] | None:
        """The layouts when every stream has the length and hash the node reported, else None."""
        async for chunk in self._output.cached(self._attempt):
            await self._take(chunk, complete=complete)
        layout: dict[str, StreamLayout] = {}
        for stream in STREAMS:
            if complete:
                await self._pull(stream, self._ends[stream].bytes)
            layout[stream] = await asyncio.to_thread(self._writers[stream].finish)
            if complete and not _matches(layout[stream], self._ends[stream]):
                layout[stream] = await self._again(stream)
                if not _matches(layout[stream], self._ends[stream]):
                    return None
        await self._write_marks()
        layout[MARKS] = await asyncio.to_thread(self._writers[MARKS].finish)
        return layout

    def discard(self) -> None:
        for writer in self._writers.values():
            writer.discard()

    async def _take(self, chunk: Chunk, *, complete: bool) -> None:
        writer = self._writers[chunk.stream]
        data = chunk.data
        if complete:  # a power cut may take from the node's files what it had sent
            data = data[: max(0, self._ends[chunk.stream].bytes - chunk.offset)]
        taken = splice(writer.bytes, chunk.offset, data) if data else None
        if isinstance(taken, Gap) and complete:
            await self._pull(chunk.stream, taken.end)
            taken = splice(writer.bytes, chunk.offset, data)
        if taken is None or isinstance(taken, Gap):
            return
        if len(self._marks) < MOST_MARKS:
            self._marks.append(Mark(chunk.stream, taken.offset, chunk.time_us))
        await asyncio.to_thread(writer.feed, taken.data)

    async def _pull(self, stream: str, end: int) -> None:
        """Read from the node's files up to `end` what the cache did not have."""
        writer = self._writers[stream]
        start = writer.bytes
        if start >= end:
            return
        self._pulled = True
        async for data in self._output.pieces(self._attempt, stream, start, end):
            await asyncio.to_thread(writer.feed, data)
        self._telemetry.emit(
            LogPulled(
                attempt=self._attempt.id, stream=stream, offset=start, bytes=writer.bytes - start
            )
        )

    async def _again(self, stream: str) -> StreamLayout:
        """The cache held other bytes than the node's files: take the whole stream from there."""
        self._telemetry.emit(LogReread(attempt=self._attempt.id, stream=stream))
        self._writers[stream].discard()
        self._writers[stream] = FrameWriter(self.paths[stream])
        await self._pull(stream, self._ends[stream].bytes)
        return await asyncio.to_thread(self._writers[stream].finish)

    async def _write_marks(self) -> None:
        writer = self._writers[MARKS]
        if self._pulled:
            while left := marks_left(writer.bytes):
                data = await self._output.read(self._attempt, MARKS, writer.bytes, left)
                if not data:
                    break
                await asyncio.to_thread(writer.feed, data)
        if not writer.bytes:
            await asyncio.to_thread(writer.feed, encode_marks(self._marks))


def _is_silent(attempt: Attempt) -> bool:
    """Whether all that the command has said is known: nothing."""
    snapshot = attempt.snapshot
    return snapshot is not None and not attempt.log_gone and machine.log_length(snapshot) == 0


def _itself(error: Exception) -> Exception:
    return error


def recent(later: dict[str, tuple[float, float]], now: float) -> dict[str, tuple[float, float]]:
    """What is to be tried again, without what nobody tried long after its time: another server has
    sealed it."""
    return {id: (at, pause_s) for id, (at, pause_s) in later.items() if at > now - MAX_RETRY_S}


def _matches(layout: StreamLayout, end: StreamEnd) -> bool:
    return layout.bytes == end.bytes and (not end.bytes or layout.sha256 == end.sha256)
