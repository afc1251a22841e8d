"""Traces as a service: whoever has something to trace begins one, sends frames, says how it ended.

Uploads of `tt`, plain uploads and the listeners for foreign senders all come here. A sender that is
heard of in any way lives (`alive`); the beats loop writes that down and looks who fell silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import msgspec

from quarterdeck.control.changes import Changes, end_topic, run_of, run_topic
from quarterdeck.control.recent import Recent
from quarterdeck.control.step import write_guarded
from quarterdeck.control.trace.kept import Keeping
from quarterdeck.control.trace.topics import topic_of
from quarterdeck.control.trace.window import Windows
from quarterdeck.core import trace as rules
from quarterdeck.core import traced
from quarterdeck.core.access import EVERY
from quarterdeck.core.trace import End, Frame, Positions, Start, Trace, TraceState
from quarterdeck.errors import Conflict, Denied, Unavailable
from quarterdeck.service import Clock, Poke, Services
from quarterdeck.store import trace as trace_store
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Database, Tx
from quarterdeck.store.trace import TraceFilter
from quarterdeck.telemetry import RunEnded, Telemetry
from quarterdeck.telemetry.trace import TraceBack, TraceBegan, TraceEnded, TraceLost, TraceTaken

MOST_GONE = 1000
OPEN_S = 5.0
"""How long an upload may go by the record of an open ephemeral trace. Any change is told at once;
from one that was missed nothing follows but output after an end."""


class NewTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender asks for. `key` makes a repeat of the begin harmless; it is a secret of the
    sender, who shows it with all it sends."""

    name: str
    sender: str
    key: str
    namespace: str
    kept: bool = False
    start: Start = Start()


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A trace, how far it has come, and whether it was made now."""

    trace: Trace
    acked: Positions
    made: bool


class Acked(msgspec.Struct, frozen=True, kw_only=True):
    """Everything below these positions is there in the sense of the trace; `state` as it is now."""

    positions: Positions
    state: TraceState


class Traces:
    """What the API and the listeners call."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        telemetry: Telemetry,
        changes: Changes,
        services: Services,
        windows: Windows,
        keeping: Keeping,
        seal: Poke,
        new_id: Callable[[], str],
        room: Callable[[], str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._changes = changes
        self._windows = windows
        self._keeping = keeping
        self._seal = seal
        self._new_id = new_id
        self._room = room
        self._heard: set[str] = set()
        self._gone: deque[str] = deque(maxlen=MOST_GONE)
        self._open: Recent[Trace] = Recent(
            "trace", clock=clock, services=services, worth=_goes_on, most_s=OPEN_S
        )
        changes.on_foreign(self._changed)

    async def begin(
        self, new: NewTrace, *, by: Principal, also: Callable[[Tx, Trace], None] | None = None
    ) -> Begun:
        """Begin a trace; a repeat with the same key gives the one that exists. `also` is written in
        the same transaction.

        Raises Invalid, Unavailable, and Conflict for one that is over for good.
        """
        rules.check_name(new.name)
        rules.check_sender(new.sender)
        rules.check_key(new.key)
        if new.kept and (full := self._room()):
            raise Unavailable("disk_full", full)
        fresh = self._fresh(new, by)

        def write(tx: Tx) -> Trace:
            trace = trace_store.by_key(tx, new.namespace, new.key)
            if trace is None:
                trace = fresh
                trace_store.create(tx, fresh)
            if also is not None:
                also(tx, trace)
            return trace

        trace = await write_guarded(self._database, write)
        if trace.id == fresh.id:
            self._told(trace)
            self._telemetry.emit(TraceBegan(trace=trace.id, name=trace.name, kept=trace.kept))
            return Begun(trace=trace, acked=Positions(), made=True)
        if trace.kept and trace.sealed and trace.lost:
            raise Conflict(
                "trace_over",
                f"Trace {trace.id} was not heard of for a day and is closed: what was not sent is "
                "not taken any more. Begin a new one with another key.",
            )
        trace = await self._heard_of(trace)
        return Begun(trace=trace, acked=await self._acked(trace), made=False)

    async def upload(self, trace_id: str, key: str, *, by: Principal) -> Trace:
        """The trace that a sender goes on with. Raises NotFound and Denied."""
        trace = await self._open.get(trace_id, partial(self.get, trace_id))
        if by.namespace not in (EVERY, trace.namespace):
            await self.get(trace_id, namespace=by.namespace)  # which says that there is none
        if trace.key != key:
            raise Denied(
                "trace_key",
                "Only who began a trace goes on with it: send its key in the header `Trace-Key`.",
            )
        return trace

    async def take(self, trace: Trace, frames: Sequence[Frame]) -> Acked:
        """Keep what is new of some frames; a repeat changes nothing.

        Raises Conflict `gap` when a kept trace would miss something, Unavailable when it can't be
        kept now.
        """
        if trace.state is TraceState.ENDED or trace.sealed:
            return Acked(positions=await self._acked(trace), state=TraceState.ENDED)
        trace = await self._heard_of(trace)
        if trace.kept:
            if frames and (full := self._room()):
                raise Unavailable("disk_full", full)
            found, trace = await self._keeping.take(trace, frames)
            positions = trace.acked
        else:
            found, positions = await self._windows.take(trace, frames)
            if found.dropped:
                await self._change(trace.id, partial(_dropped, found=found.dropped))
        if found.frames or found.dropped:
            size = sum(len(frame.data) for frame in found.frames)
            lost = sum(one.count for one in found.dropped)
            self._telemetry.emit(TraceTaken(kept=trace.kept, bytes=size, dropped=lost))
        return Acked(positions=positions, state=trace.state)

    async def end(self, trace: Trace, end: End, *, said: Positions | None = None) -> Trace:
        """Record how the command ended; the first word counts. `said` is how much the sender has
        sent in all. Raises Conflict `gap` while a kept trace lacks some of it, NotFound."""
        if trace.state is TraceState.OPEN and trace.kept and said is not None:
            present = await self.get(trace.id)
            if present.acked.at_least(said) != present.acked:
                raise Conflict(
                    "gap",
                    "The end of this trace came before all of its output: send the rest first.",
                    acked=msgspec.structs.asdict(present.acked),
                )
        reached = Positions() if trace.kept else await self._acked(trace)
        self._heard.discard(trace.id)

        def decide(present: Trace, now: datetime) -> Trace:
            if not present.kept:
                far = present.bytes.at_least(reached)
                present = msgspec.structs.replace(present, bytes=far)
            return rules.ended(present, end, now)

        after = await self._change(trace.id, decide)
        self._windows.forget(trace.id)
        if after.kept:
            self._seal()
        return after

    async def lose(self, trace_id: str, *, beat: int | None = None) -> Trace:
        """Its sender is gone without a word; unless it was heard of after `beat`."""
        if beat is None:
            self._heard.discard(trace_id)
            self._gone.append(trace_id)
        return await self._change(trace_id, rules.fell_silent, beat=beat)

    def alive(self, *trace_ids: str) -> None:
        """These senders were heard of."""
        self._heard.update(trace_ids)

    def heard(self) -> dict[str, Positions]:
        """Who was heard of since the last call, and how far ephemeral ones have come."""
        heard, self._heard = self._heard, set()
        return {id: self._windows.reached(id) for id in heard}

    async def heard_again(self, trace_id: str) -> None:
        """A beat of a lost trace was written: it goes on, unless that beat was on its way when its
        sender was known to go."""
        if trace_id not in self._gone:
            await self._change(trace_id, rules.came_back)

    async def get(self, trace_id: str, *, namespace: str = EVERY) -> Trace:
        """Raises NotFound, also for one of another namespace."""

        def read(tx: Tx) -> Trace:
            trace = trace_store.get(tx, trace_id)
            return trace if namespace in (EVERY, trace.namespace) else trace_store.get(tx, "")

        return await self._database.read(read)

    async def page(self, which: TraceFilter) -> list[Trace]:
        """Traces, newest first."""
        return await self._database.read(partial(trace_store.page, which=which))

    async def _acked(self, trace: Trace) -> Positions:
        if trace.kept or trace.state is TraceState.ENDED:
            return trace.acked
        return await self._windows.acked(trace)

    async def _heard_of(self, trace: Trace) -> Trace:
        if trace.state is TraceState.ENDED:
            return trace
        self.alive(trace.id)
        return await self._change(trace.id, rules.came_back) if trace.lost else trace

    async def _change(
        self,
        trace_id: str,
        decide: Callable[[Trace, datetime], Trace],
        *,
        beat: int | None = None,
    ) -> Trace:
        now = self._clock.now()

        def write(tx: Tx) -> tuple[Trace, Trace]:
            before = trace_store.get(tx, trace_id)
            if beat is not None and trace_store.beat_of(tx, trace_id) != beat:
                return before, before
            return before, trace_store.save(tx, before, decide(before, now))

        before, after = await write_guarded(self._database, write)
        self._open.forget(trace_id)
        if after.told != before.told:
            self.moved(before, after)
        return after

    def moved(self, before: Trace, after: Trace) -> None:
        """A change that people are to be told of was committed."""
        self._told(after)
        came_out = traced.outcome(after)
        if after.lost and not before.lost:
            self._telemetry.emit(TraceLost(trace=after.id, name=after.name))
        elif before.lost and not after.lost:
            self._telemetry.emit(TraceBack(trace=after.id, name=after.name))
        if after.state is TraceState.ENDED and before.state is TraceState.OPEN:
            code = traced.exit_code(after)
            self._telemetry.emit(TraceEnded(trace=after.id, name=after.name, exit_code=code))
        if came_out is not None and not before.over_now:
            self._changes.tell(end_topic(after.id))
            self._telemetry.emit(RunEnded(run=after.id, outcome=came_out.value))

    def _told(self, trace: Trace) -> None:
        self._open.forget(trace.id)
        self._changes.tell(topic_of(trace))
        self._changes.tell(run_topic(trace.id))

    def _changed(self, topics: tuple[str, ...]) -> None:
        """Another server has changed these."""
        self._open.forget(*filter(None, map(run_of, topics)))

    def _fresh(self, new: NewTrace, by: Principal) -> Trace:
        now = self._clock.now()
        command = rules.shortened(new.start.command)
        return Trace(
            id=self._new_id(),
            namespace=new.namespace,
            name=new.name,
            sender=new.sender,
            key=new.key,
            by=by.id,
            kept=new.kept,
            start=msgspec.structs.replace(new.start, command=command),
            created_at=now,
            heard_at=now,
        )


def _goes_on(trace: Trace) -> bool:
    """Whether its record says nothing that the next upload must not miss: an ephemeral one that is
    open is known by its offsets."""
    return not trace.kept and not trace.lost and trace.state is TraceState.OPEN


def _dropped(trace: Trace, _now: datetime, *, found: Sequence[rules.Dropped]) -> Trace:
    dropped = rules.with_drops(trace.dropped, found)
    if dropped == trace.dropped:
        return trace
    return msgspec.structs.replace(trace, dropped=dropped)
