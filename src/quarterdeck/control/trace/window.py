"""What ephemeral traces say: kept by the fabric alone, in one window of time and bytes for each
namespace.

The window is a stream in the memory of the fabric, made at the first trace of its namespace; the
acknowledgement of the fabric is that of the sender. How far a trace has come is known by the server
that takes it; another one reads it from the window and the record. What two servers took is in the
window twice, and readers know it by its offset.

A restart of the fabric takes all of it. Who finds a window missing makes it anew and writes down
how far each trace had come (`forgotten`), so that watchers can be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from quarterdeck.control.changes import Changes
from quarterdeck.control.trace.topics import topic_of
from quarterdeck.core.model import STREAMS
from quarterdeck.core.trace import Dropped, Frame, News, Positions, Trace, news
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric import topology
from quarterdeck.fabric.base import Fabric, Refused, Stored, Window
from quarterdeck.service import Poke
from quarterdeck.store import trace as trace_store
from quarterdeck.store.base import Database
from quarterdeck.telemetry import Telemetry
from quarterdeck.telemetry.trace import TraceForgotten
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from quarterdeck.wire.trace import decode_said, encode_drop, joined

STORE_S = 5.0
TRACES_KNOWN = 20_000
EVERY_S = 15.0
RETRY_S = 1.0


class Reached:
    """How far one trace has come here; one upload of it at a time."""

    def __init__(self, namespace: str, acked: Positions) -> None:
        self.namespace = namespace
        self.acked = acked
        self.turn = asyncio.Lock()


class Windows:
    """`window_s` and `window_bytes`: how much of the past a namespace may keep."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        changes: Changes,
        telemetry: Telemetry,
        window_s: float,
        window_bytes: int,
    ) -> None:
        self.window_s = window_s
        self._database = database
        self._fabric = fabric
        self._changes = changes
        self._telemetry = telemetry
        self._window_bytes = window_bytes
        self._known: dict[str, Reached] = {}
        self._there: set[str] = set()
        self._lost: dict[str, dict[str, Positions]] = {}  # windows made anew, how far traces were
        self._connected = Poke()

    def watch(self) -> None:
        """Look again at each connection to the fabric: it may have lost its memory."""
        self._fabric.on_connect(self._look_again)

    def _look_again(self) -> None:
        self._there.clear()
        self._connected("")

    async def keep(self) -> None:
        """Loop: the windows of all namespaces with ephemeral traces are there. Waits for each
        connection, and a tick of `EVERY_S`."""
        trouble = False
        while True:
            if not await self._connected.wait(RETRY_S if trouble else EVERY_S):
                self._there.clear()
            try:
                for namespace in await self._database.read(trace_store.namespaces):
                    await self.ensure(namespace)
                trouble = False
            except Unavailable:
                trouble = True

    async def ensure(self, namespace: str) -> None:
        """The window is there, also on a fabric that has lost its memory. Raises Unavailable."""
        if namespace in self._there:
            return
        window = Window(
            stream=subjects.trace_stream(namespace),
            subject=subjects.traces(namespace),
            max_bytes=self._window_bytes,
            max_age_s=self.window_s,
        )
        before = {id: one.acked for id, one in self._known.items() if one.namespace == namespace}
        try:
            made = await topology.ensure_window(self._fabric, window)
        except Invalid as error:  # a setting of ours, not of whoever sends
            raise Unavailable("trace_window", error.message) from error
        if made:
            self._lost[namespace] = before
        if namespace in self._lost:  # also when the database was away the last time
            await self._forget(namespace, self._lost[namespace])
            self._lost.pop(namespace, None)
        self._there.add(namespace)

    async def _forget(self, namespace: str, reached: Mapping[str, Positions]) -> None:
        gone = await self._database.write(lambda tx: trace_store.forget(tx, namespace, reached))
        for topic in {topic_of(trace) for trace in gone}:
            self._changes.tell(topic)
        if gone:
            self._telemetry.emit(TraceForgotten(namespace=namespace, traces=len(gone)))

    def reached(self, trace_id: str) -> Positions:
        """How far a trace has come here; nowhere when it is not known."""
        known = self._known.get(trace_id)
        return Positions() if known is None else known.acked

    def forget(self, trace_id: str) -> None:
        """It has ended."""
        self._known.pop(trace_id, None)

    async def acked(self, trace: Trace) -> Positions:
        """How far a trace has come. Raises Unavailable."""
        return (await self._reached(trace)).acked

    async def take(self, trace: Trace, frames: Sequence[Frame]) -> tuple[News, Positions]:
        """Put what is new into the window; what was new, and how far the trace has come now.

        Raises Unavailable when the fabric does not take it: then nothing is acknowledged, and what
        it took all the same is known by its offsets when it comes again.
        """
        reached = await self._reached(trace)
        async with reached.turn:
            found = news(frames, reached.acked, gaps=True, known=trace.dropped)
            if found.frames or found.dropped:
                await self.ensure(trace.namespace)
                await self._store(trace, found)
            reached.acked = reached.acked.at_least(found.acked)
            return found, reached.acked

    async def said(self, trace: Trace) -> AsyncIterator[Chunk | Dropped]:
        """What the window holds of a trace, in the order it came; chunks may repeat. Raises
        Unavailable."""
        subject = subjects.trace(trace.namespace, trace.name, trace.sender, trace.id)
        try:
            async for kept in self._fabric.replay(subjects.trace_stream(trace.namespace), subject):
                try:
                    yield decode_said(kept.data)
                except Invalid:
                    continue
        except Unavailable as error:
            if error.code != "no_responders":
                raise
            return  # no window: nobody has said anything since the fabric started

    async def _reached(self, trace: Trace) -> Reached:
        known = self._known.get(trace.id)
        if known is not None:
            return known
        ends = {stream: trace.acked.of(stream) for stream in STREAMS}
        async for said in self.said(trace):
            if isinstance(said, Chunk):
                ends[said.stream] = max(ends[said.stream], said.offset + len(said.data))
        while len(self._known) >= TRACES_KNOWN:
            del self._known[next(iter(self._known))]
        return self._known.setdefault(trace.id, Reached(trace.namespace, Positions(**ends)))

    async def _store(self, trace: Trace, found: News) -> None:
        if not self._fabric.connected:
            raise Unavailable("disconnected", "The link to the fabric is down: send it again soon.")
        subject = subjects.trace(trace.namespace, trace.name, trace.sender, trace.id)
        messages = [encode_drop(one, 0) for one in found.dropped]
        messages += [
            encode_chunk(Chunk(one.stream, one.offset, one.time_us, one.data))
            for one in joined(found.frames)
        ]
        waiting = [self._fabric.store(subject, message) for message in messages]
        try:
            async with asyncio.timeout(STORE_S):
                answers = await asyncio.gather(*waiting)
        except TimeoutError as error:
            self._there.discard(trace.namespace)
            raise Unavailable(
                "fabric_away",
                "The fabric did not take this part of the trace: send it again in a moment.",
            ) from error
        finally:
            for future in waiting:
                future.cancel()
        for answer in answers:
            _check(answer)


def _check(answer: Stored | Refused) -> None:
    if isinstance(answer, Refused):
        raise Unavailable(
            "fabric_refused",
            f"The fabric refused this part of the trace ({answer.text}): send it again later.",
        )
