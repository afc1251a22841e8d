"""Watching a name of traces: all senders under it, those of the window first, then live.

Theory. A watcher holds a cursor (core/trace_cursor.py). First the live subjects of the name are
subscribed, then the records are read, then the past: for ephemeral traces what the window holds,
for kept ones their pieces or the archive. From then on live chunks are spliced on by offset, for
each trace and stream on its own, so nothing is told twice.

* What lies before a live chunk is read again from where the past is. What is not there any more is
  told as missing, with the reason, and the watcher goes on behind it.
* An end is told after the last byte. A lost trace may come back: it is told to run again before
  what it says then.
* A name that nobody traces under is waited for. A record that vanishes had its end told, unless
  nobody watched meanwhile: then it is told that nobody knows how it ended.
* A slow watcher costs its inbox and no more; others do not notice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from functools import partial

from quarterdeck.control.changes import Changes
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.feed import Feeds, Inbox
from quarterdeck.control.output import Output
from quarterdeck.control.trace.topics import trace_topic
from quarterdeck.control.trace.view import (
    Entry,
    TraceMissing,
    TraceOutput,
    TracePresent,
    TraceSeen,
    TraceTurned,
    TraceVanished,
    View,
    is_final,
)
from quarterdeck.core import traced
from quarterdeck.core.model import STREAMS
from quarterdeck.core.states import Outcome
from quarterdeck.core.stream import Gap, Segment, Taken, splice
from quarterdeck.core.trace import Dropped, with_drops
from quarterdeck.core.trace_cursor import Cursor
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.service import Clock
from quarterdeck.store import trace as trace_store
from quarterdeck.store.base import Database
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk
from quarterdeck.wire.trace import decode_said

LOOK_AGAIN_S = 2.0
LINGER_S = 2.0
"""How long after the last end a watcher that does not stay waits for the next begin."""


class TraceWatching:
    """Makes watchers of names of traces; at most as many as the crowd admits."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        output: Output,
        changes: Changes,
        crowd: Crowd,
        clock: Clock,
        window_s: float,
    ) -> None:
        self.crowd = crowd
        self._database = database
        self._fabric = fabric
        self._output = output
        self._changes = changes
        self._clock = clock
        self._window_s = window_s
        self._feeds = Feeds(fabric)

    async def watch(
        self,
        namespace: str,
        name: str,
        cursor: Cursor,
        *,
        sender: str = "",
        follow: bool = True,
        forever: bool = False,
    ) -> AsyncGenerator[TraceSeen]:
        """Everything behind the cursor, which is moved along; of one `sender` or of all. Without
        `forever` it ends with `TracesEnded`, without `follow` with `TracePresent`."""
        inbox = Inbox(self.crowd)
        heard = (subjects.traces(namespace, name), subjects.traces(namespace, name, live=True))
        view = View(namespace, name, sender, cursor)
        present, quiet_since = False, self._clock.monotonic()
        try:
            await self._feeds.join(inbox, *heard)
            with self._changes.watch(trace_topic(namespace, name)) as poke:
                inbox.wake = poke
                for gone in await self._refresh(view):
                    yield gone
                async for seen in self._past(view):
                    yield seen
                while True:
                    messages, dropped = inbox.take()
                    for message in messages:
                        async for seen in self._heard(view, message):
                            yield seen
                    for seen_one in self._behind(view, dropped):
                        async for seen in self._caught_up(view, seen_one):
                            yield seen
                    async for seen in self._states(view):
                        yield seen
                    view.settle()
                    if not present:
                        present = True
                        yield TracePresent()
                        if not follow:
                            return
                    now = self._clock.monotonic()
                    if forever or messages or not view.all_over():
                        quiet_since = now
                    elif now - quiet_since >= LINGER_S:
                        yield view.ended()
                        return
                    patience = LOOK_AGAIN_S if forever else LINGER_S / 4
                    keys = await poke.wait(0 if inbox.waiting else patience)
                    late = self._clock.monotonic() - view.read_at >= LOOK_AGAIN_S
                    if keys - {"output"} or late or not (keys or inbox.waiting):
                        for gone in await self._refresh(view):
                            yield gone
        finally:
            inbox.close()
            await self._feeds.leave(inbox, *heard)

    async def _refresh(self, view: View) -> list[TraceVanished]:
        since = self._clock.now() - timedelta(seconds=self._window_s)
        read = partial(
            trace_store.watched,
            namespace=view.namespace,
            name=view.name,
            since=since,
            known=view.known(),
        )
        return view.update(await self._database.read(read), since, self._clock.monotonic())

    async def _past(self, view: View) -> AsyncIterator[TraceSeen]:
        """What the window holds, in the order in which it came, then kept traces one by one."""
        stream = subjects.trace_stream(view.namespace)
        try:
            async for kept in self._fabric.replay(
                stream, subjects.traces(view.namespace, view.name)
            ):
                found = view.of(kept.subject)
                if found is not None:
                    async for seen in self._said(view, found, kept.data, filled=True):
                        yield seen
                    found.sequence = kept.sequence
        except Unavailable:
            pass  # no window yet, or the fabric is away: what was missed is read when it is there
        for one in view.entries():
            if one.trace.kept:
                async for seen in self._caught_up(view, one):
                    yield seen

    async def _heard(self, view: View, message: Message) -> AsyncIterator[TraceSeen]:
        found = view.of(message.subject)
        if found is None and view.is_new(message.subject):
            # its record was committed before it said anything
            for gone in await self._refresh(view):
                yield gone
            found = view.of(message.subject)
        if found is None:
            return
        if found.outcome is Outcome.LOST:
            # that it is back was committed before it said anything
            for gone in await self._refresh(view):
                yield gone
            async for seen in self._states(view):
                yield seen
        async for seen in self._said(view, found, message.data, filled=False):
            yield seen

    async def _said(
        self, view: View, one: Entry, data: bytes, *, filled: bool
    ) -> AsyncIterator[TraceSeen]:
        """A message of a trace; `filled`: what is missing before it is nowhere."""
        try:
            said = decode_said(data)
        except Invalid:
            return
        for began in one.begun():
            yield began
        if isinstance(said, Dropped):
            for drop in one.place.drops(with_drops(one.trace.dropped, [said])):
                yield TraceMissing(one.trace, drop)
            return
        positions = one.place.positions
        met = splice(positions[said.stream], said.offset, said.data)
        if isinstance(met, Gap) and not filled:
            async for seen in self._caught_up(view, one, stream=said.stream, end=met.end):
                yield seen
            met = splice(positions[said.stream], said.offset, said.data)
        if isinstance(met, Gap):
            if one.trace.kept:
                return  # its pieces are read when they can be
            for gap in one.gone(said.stream, met.end):
                yield gap
            met = splice(positions[said.stream], said.offset, said.data)
        if isinstance(met, Taken):
            positions[said.stream] += len(met.data)
            taken = Chunk(said.stream, met.offset, said.time_us, met.data)
            yield TraceOutput(one.trace, taken)

    async def _caught_up(
        self, view: View, one: Entry, *, stream: str = "", end: int = 0
    ) -> AsyncIterator[TraceSeen]:
        """Read on from where the past of a trace is: of a kept one up to its present end, or the
        `end` of a `stream`."""
        for began in one.begun():
            yield began
        if one.trace.kept:
            async for seen in self._pieces(one, stream, end):
                yield seen
            return
        trace = one.trace
        subject = subjects.trace(trace.namespace, trace.name, trace.sender, trace.id)
        try:
            async for kept in self._fabric.replay(
                subjects.trace_stream(trace.namespace), subject, after=one.sequence
            ):
                async for seen in self._said(view, one, kept.data, filled=True):
                    yield seen
                one.sequence = kept.sequence
        except Unavailable:
            return

    async def _pieces(self, one: Entry, stream: str, end: int) -> AsyncIterator[TraceSeen]:
        positions = one.place.positions
        attempt = traced.attempt_of(one.trace)
        if one.trace.over_now:
            async for chunk in self._output.in_order(attempt, dict(positions)):
                positions[chunk.stream] = chunk.offset + len(chunk.data)
                yield TraceOutput(one.trace, chunk)
            return
        for name in STREAMS:
            upto = max(one.trace.bytes.of(name), end if name == stream else 0)
            if positions[name] < upto:
                segment = Segment(name, positions[name], upto, 0)
                async for chunk in self._output.shown(attempt, segment):
                    positions[name] = chunk.offset + len(chunk.data)
                    yield TraceOutput(one.trace, chunk)

    def _behind(self, view: View, dropped: set[str]) -> list[Entry]:
        """Traces whose messages did not fit into the inbox or did not come."""
        found = [view.of(subject) for subject in dropped]
        return [*{id(one): one for one in (*found, *view.late()) if one is not None}.values()]

    async def _states(self, view: View) -> AsyncIterator[TraceSeen]:
        """What changed of the records, in order."""
        for one in view.entries():
            for began in one.begun():
                yield began
            for notice in one.notices():
                yield notice
            if not one.changed():
                continue
            outcome = traced.outcome(one.trace)
            if outcome is not None:
                if one.short():
                    async for seen in self._caught_up(view, one):
                        yield seen
                for last in one.rest():
                    yield last
            one.place.told = one.trace.told
            one.place.final = is_final(one.trace)
            if outcome is not one.outcome:
                one.outcome = outcome
                yield TraceTurned(one.trace, outcome)
