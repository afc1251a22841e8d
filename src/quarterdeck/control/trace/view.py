"""What a watcher of a name knows of its traces, and what it is told.

An entry is a trace as its watcher knows it: the record as it was read last, and the place reached.
What was told for good is counted and has no entry any more: of it the id is kept for as long as its
record is among those that are read, so that who watches for months knows no more than what goes on.
"""

from __future__ import annotations

from datetime import datetime

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
LOST_CODE = 1
MOST_STRANGE = 10_000
VANISHED = "it is forgotten by now: how it ended is not known any more"


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


class TraceVanished(msgspec.Struct, frozen=True):
    """A trace that was told to run is forgotten: how it ended nobody knows any more."""

    trace: str


class TracePresent(msgspec.Struct, frozen=True):
    """Everything there was at the beginning was told."""


class TracesEnded(msgspec.Struct, frozen=True):
    """All traces under the name have ended, and no other came for a while: how many in which way,
    and the worst exit code."""

    counts: dict[Outcome, int]
    exit_code: int


TraceSeen = (
    TraceBegan
    | TraceOutput
    | TraceMissing
    | TraceTurned
    | TraceVanished
    | TracePresent
    | TracesEnded
)


class Tally:
    """How traces ended."""

    def __init__(self) -> None:
        self.counts: dict[Outcome, int] = {}
        self.worst = 0

    def add(self, outcome: Outcome, code: int | None) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        self.worst = max(self.worst, code or 0, LOST_CODE if outcome is Outcome.LOST else 0)


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
            if is_final(self.trace) and (over := self.trace.over.of(stream)):
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
        self._over = Tally()
        self._told: dict[str, datetime] = {}  # when its sender was heard of last
        self._strange: set[str] = set()
        self._late: set[str] = set()

    def known(self) -> list[str]:
        """The traces whose records are needed, however many newer ones there are."""
        return self._cursor.under_way()

    def update(self, traces: list[Trace], since: datetime, now: float) -> list[TraceVanished]:
        """The records as they are at a time, of those heard of after `since` and those known."""
        self.read_at = now
        self._told = {id: at for id, at in self._told.items() if at >= since}
        if len(self._strange) > MOST_STRANGE:
            self._strange.clear()
        there = {trace.id for trace in traces}
        vanished = [self._vanish(id) for id in self.known() if id not in there]
        for trace in traces:
            if trace.id not in self._told:
                self._update(trace, now)
        return [one for one in vanished if one is not None]

    def _update(self, trace: Trace, now: float) -> None:
        if self._sender and trace.sender != self._sender:
            self._strange.add(trace.id)
            return
        known = self._entries.get(trace.id)
        if known is not None:
            if known.renewed(trace, now):
                self._late.add(trace.id)
            return
        place = self._cursor.place(trace.id)
        if place is None or place.final:
            self._told[trace.id] = trace.heard_at
        else:
            self._entries[trace.id] = Entry(trace, place, now)

    def _vanish(self, id: str) -> TraceVanished | None:
        place = self._cursor.place(id)
        assert place is not None
        place.final = True
        known = self._entries.pop(id, None)
        if known is not None and known.outcome is not None:
            self._over.add(known.outcome, traced.exit_code(known.trace))
            return None
        if id in self._strange:  # the cursor is of somebody who watched all senders
            return None
        self._over.add(Outcome.LOST, None)
        return TraceVanished(id)

    def settle(self) -> None:
        """Of what was told for good no more is known than that."""
        for id in [id for id, one in self._entries.items() if one.place.final]:
            one = self._entries.pop(id)
            self._told[id] = one.trace.heard_at
            if one.outcome is not None:
                self._over.add(one.outcome, traced.exit_code(one.trace))

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
        fresh = id not in self._strange and id not in self._told
        self._strange.add(id)
        return fresh

    def late(self) -> list[Entry]:
        """Those whose live messages did not come, once."""
        late, self._late = self._late, set()
        return [self._entries[id] for id in late if id in self._entries]

    def all_over(self) -> bool:
        """Whether there was a trace and none goes on."""
        entries = self._entries.values()
        return bool(entries or self._over.counts) and all(
            one.trace.over_now and not one.changed() for one in entries
        )

    def ended(self) -> TracesEnded:
        """How all of them ended."""
        whole = Tally()
        whole.counts, whole.worst = dict(self._over.counts), self._over.worst
        for one in self._entries.values():
            whole.add(traced.outcome(one.trace) or Outcome.LOST, traced.exit_code(one.trace))
        return TracesEnded(whole.counts, whole.worst)


def is_final(trace: Trace) -> bool:
    """Whether nothing about it can change any more."""
    return trace.over_now and (trace.state is TraceState.ENDED or trace.sealed)
