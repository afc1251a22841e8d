"""How far a watcher of a name of traces has come, and what is missing where it goes on.

The cursor holds, for each trace under the name, the offset reached in both streams, the state that
was told, and how many dropped bytes were told. It travels as the id of each event:
`done;trace:stdout,stderr,told,dropped;trace;...`. Everything up to the trace `done` that is not
listed was told for good, so a name that is used for years needs no more than the traces that go on.

Ids are times of different servers, and a trace may be seen later than one with a younger id. So
`done` stays `LATE_MS` behind the youngest id that is known; what was told for good since then is
listed by its id alone, at most `MOST_RECENT` of it.

While very many go on, not every event carries the cursor, so that ids cost no more than output;
who resumes from an older one knows what comes again by its offset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from quarterdeck.core.ids import made_ms
from quarterdeck.core.model import STREAMS
from quarterdeck.core.trace import Dropped, Trace
from quarterdeck.errors import Invalid

ALWAYS = 16
"""With so many traces under way every event has an id."""
LATE_MS = 60_000
MOST_RECENT = 16
ENTRY = re.compile(r"([0-9a-z]{16})(?::([0-9]{1,19}),([0-9]{1,19}),([0-9]{1,9}),([0-9]{1,19}))?")
DONE = re.compile(r"([0-9a-z]{16})?")
MOST_ENTRIES = 1500

WINDOW, DROPPED, FABRIC, LIMIT = "window", "dropped", "fabric", "limit"


class Missing(msgspec.Struct, frozen=True):
    """`count` bytes that nobody can have any more; of those that were dropped before they had an
    offset, `start` and `end` are where they would stand."""

    stream: str
    start: int
    end: int
    count: int
    reason: str


class Place:
    """Where a watcher is in one trace."""

    def __init__(self) -> None:
        self.positions = dict.fromkeys(STREAMS, 0)
        self.told = 0
        self.dropped = 0  # told bytes that the sender dropped
        self.final = False

    def drops(self, known: tuple[Dropped, ...]) -> Iterator[Missing]:
        """What was dropped before the places reached, as far as it was not told."""
        room = self.dropped
        for one in known:
            if one.offset > self.positions[one.stream]:
                continue
            told = min(room, one.count)
            room -= told
            if one.count > told:
                self.dropped += one.count - told
                yield Missing(one.stream, one.offset, one.offset, one.count - told, DROPPED)


class Cursor:
    """The places of one watcher."""

    def __init__(self, done: str = "") -> None:
        self.places: dict[str, Place] = {}
        self._done = done
        self._resumed = done
        self._untold = 0

    def place(self, trace: str) -> Place | None:
        """Where the watcher is in a trace; None: everything about it was told for good, before
        this connection. Who asks knows what was told for good since."""
        if trace not in self.places and trace <= self._resumed:
            return None
        return self.places.setdefault(trace, Place())

    def under_way(self) -> list[str]:
        """The traces that were begun to be told, and not told for good."""
        return [id for id, place in self.places.items() if not place.final]

    def text(self) -> str | None:
        """The id of an event; None when this one is to have none."""
        self._settle()
        self._untold += 1
        under_way = len(self.under_way())
        if under_way > ALWAYS and self._untold < under_way:
            return None
        self._untold = 0
        return ";".join([self._done, *(_entry(id, self.places[id]) for id in self.places)])

    def _settle(self) -> None:
        """Move `done` over what was told for good long enough ago."""
        final = sorted(id for id, place in self.places.items() if place.final)
        if not final:
            return
        late = made_ms(max(self.places)) - LATE_MS
        for number, id in enumerate(final):
            if len(final) - number <= MOST_RECENT and made_ms(id) >= late:
                break
            del self.places[id]
            self._done = max(self._done, id)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises Invalid for what is not a cursor."""
        done, *entries = text.split(";")
        found = [ENTRY.fullmatch(entry) for entry in entries[:MOST_ENTRIES]]
        if DONE.fullmatch(done) is None or None in found:
            raise Invalid("cursor", f"{text[:80]!r} is not the id of an event of a trace.")
        cursor = cls(done)
        for one in found:
            assert one is not None
            place = cursor.places.setdefault(one[1], Place())
            place.final = one[2] is None
            if not place.final:
                place.positions = {"stdout": int(one[2]), "stderr": int(one[3])}
                place.told, place.dropped = int(one[4]), int(one[5])
        return cursor


def _entry(id: str, place: Place) -> str:
    if place.final:
        return id
    at = place.positions
    return f"{id}:{at['stdout']},{at['stderr']},{place.told},{place.dropped}"


def missing(trace: Trace, stream: str, start: int, end: int) -> Iterator[Missing]:
    """Why the bytes from `start` to `end` of an ephemeral trace are nowhere: a restart of the
    fabric took what it had said before that, the rest was pushed out of the window."""
    taken = min(max(trace.forgotten.of(stream), start), end)
    if taken > start:
        yield Missing(stream, start, taken, taken - start, FABRIC)
    if end > taken:
        yield Missing(stream, taken, end, end - taken, WINDOW)
