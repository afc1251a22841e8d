"""What a watcher of a name knows of its traces, and what it is told.

An entry is a trace as its watcher knows it: the record as it was read last, and the place reached.
"""

from __future__ import annotations

import msgspec

from quarterdeck.core import traced
from quarterdeck.core.model import STREAMS
from quarterdeck.core.states import Outcome
from quarterdeck.core.trace import Trace, TraceState
from quarterdeck.core.trace_cursor import FABRIC, LIMIT, Cursor, Missing, Place, missing
from quarterdeck.errors import Invalid
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk

LATE_S = 1.5


class TraceBegan(msgspec.Struct, frozen=True):
    """A sender that the watcher had not heard of."""

    trace: Trace


class TraceOutput(msgspec.Struct, frozen=True):
    """New bytes of one stream of a trace."""

    trace: Trace
    chunk: Chunk


class TraceMissing(msgspec.Struct, frozen=True):
    """Bytes that nobody can have any more."""

    trace: Trace
    missing: Missing


class TraceTurned(msgspec.Struct, frozen=True):
    """A trace has ended or was lost, and all of its output was told; or it is back."""

    trace: Trace
    outcome: Outcome | None


class TracePresent(msgspec.Struct, frozen=True):
    """Everything there was at the beginning was told."""


class TracesEnded(msgspec.Struct, frozen=True):
    """All traces under the name have ended, and no other came for a while."""

    traces: tuple[Trace, ...]


TraceSeen = TraceBegan | TraceOutput | TraceMissing | TraceTurned | TracePresent | TracesEnded


class Entry:
    """One trace as its watcher knows it."""

    def __init__(self, trace: Trace, place: Place, now: float) -> None:
        self.trace = trace
        self.place = place
        self.sequence = 0
        self.forgotten = trace.forgotten
        # what was told before the cursor was handed over
        self.outcome = traced.outcome(trace) if place.told == trace.told else None
        self._before = (now, trace.bytes, place.positions.copy())

    def begun(self) -> list[TraceBegan]:
        """Told once."""
        if self.place.told:
            return []
        self.place.told = 1
        return [TraceBegan(self.trace)]

    def changed(self) -> bool:
        return self.trace.told > self.place.told

    def short(self) -> bool:
        """Whether the record knows of more than was told."""
        return any(self.trace.bytes.of(s) > self.place.positions[s] for s in STREAMS)

    def renewed(self, trace: Trace, now: float) -> bool:
        """Take the record as it is now. True when nothing came for a while of what it knew of."""
        self.trace = trace
        at, known, positions = self._before
        if now - at < LATE_S:
            return False
        self._before = (now, trace.bytes, self.place.positions.copy())
        return any(known.of(s) > positions[s] == self.place.positions[s] for s in STREAMS)

    def notices(self) -> list[TraceMissing]:
        """What was dropped, and that the fabric forgot what was told already."""
        found = list(self.place.drops(self.trace.dropped))
        if self.trace.forgotten != self.forgotten:
            self.forgotten = self.trace.forgotten
            for stream in STREAMS:
                at = self.forgotten.of(stream)
                if 0 < at <= self.place.positions[stream]:
                    found.append(Missing(stream, at, at, 0, FABRIC))
        return [TraceMissing(self.trace, one) for one in found]

    def gone(self, stream: str, end: int) -> list[TraceMissing]:
        """Go on behind what is nowhere."""
        start = self.place.positions[stream]
        self.place.positions[stream] = end
        return [TraceMissing(self.trace, one) for one in missing(self.trace, stream, start, end)]

    def rest(self) -> list[TraceMissing]:
        """What is missing at the end."""
        found: list[TraceMissing] = []
        for stream in STREAMS:
            end = self.trace.bytes.of(stream)
            if self.place.positions[stream] < end and not self.trace.kept:
                found += self.gone(stream, end)
            if over := self.trace.over.of(stream):
                found.append(
                    TraceMissing(self.trace, Missing(stream, end, end + over, over, LIMIT))
                )
        return found + self.notices()


class View:
    """What a watcher knows of its name."""

    def __init__(self, namespace: str, name: str, sender: str, cursor: Cursor) -> None:
        self.namespace = namespace
        self.name = name
        self.read_at = 0.0
        self._sender = sender
        self._cursor = cursor
        self._entries: dict[str, Entry] = {}
        self._strange: set[str] = set()
        self._late: set[str] = set()

    def update(self, traces: list[Trace], now: float) -> None:
        """The records as they are at a time."""
        self.read_at = now
        for trace in traces:
            if self._sender and trace.sender != self._sender:
                self._strange.add(trace.id)
                continue
            known = self._entries.get(trace.id)
            if known is not None:
                if known.renewed(trace, now):
                    self._late.add(trace.id)
                continue
            place = self._cursor.place(trace.id)
            if place is None:
                self._strange.add(trace.id)
            else:
                self._entries[trace.id] = Entry(trace, place, now)

    def entries(self) -> list[Entry]:
        """Oldest first."""
        return [self._entries[id] for id in sorted(self._entries)]

    def of(self, subject: str) -> Entry | None:
        try:
            return self._entries.get(subjects.trace_of(subject))
        except Invalid:
            return None

    def is_new(self, subject: str) -> bool:
        """Whether nobody has looked for this trace; after this somebody has."""
        try:
            id = subjects.trace_of(subject)
        except Invalid:
            return False
        fresh = id not in self._strange
        self._strange.add(id)
        return fresh

    def late(self) -> list[Entry]:
        """Those whose live messages did not come, once."""
        late, self._late = self._late, set()
        return [self._entries[id] for id in late]

    def all(self) -> tuple[Trace, ...]:
        return tuple(one.trace for one in self.entries())

    def all_over(self) -> bool:
        """Whether there was a trace and none goes on."""
        return bool(self._entries) and all(
            one.trace.over_now and not one.changed() for one in self._entries.values()
        )


def is_final(trace: Trace) -> bool:
    """Whether nothing about it can change any more."""
    return trace.over_now and (trace.state is TraceState.ENDED or trace.sealed)
