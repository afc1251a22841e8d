"""Traces: what is known of a command that somebody else started, and what a message of it changes.

A trace is one session of one sender. It is told to people as a run of one task and one attempt,
all of which follow from the record here (core/traced.py).

Rules:
1. The sender owns the facts. It sends bytes by their offsets; what is below `acked` is there and
   never taken twice, so frames may repeat and overlap.
2. A trace lives by what is heard of its sender. One server looks at all of them; whoever was not
   heard of for `GONE_AFTER_S` of its own monotonic time is `lost`. It may have been the network:
   a sender that comes back opens its trace again.
3. The end of a kept trace is told once its log is archived; one that was lost is archived after
   `FINAL_AFTER_S`, and nothing opens it after that.
4. Of a kept trace a limited number of bytes is kept; what comes beyond is counted in `over`. What
   the sender itself dropped is in `dropped`: offsets count only bytes that exist.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from quarterdeck.core.lock import Heard
from quarterdeck.core.model import STREAMS, Record
from quarterdeck.errors import Conflict, Invalid

ORIGIN = "trace"
NODE = "tt"
"""The node of every trace: the id of a real one is longer."""
LOOK_S = 0.5
GONE_AFTER_S = 6.0
DEAF_AFTER_S = 3.0
"""Who could not look for so long has not heard anybody: all of them get their time again."""
FINAL_AFTER_S = 86_400.0
MOST_SENDER = 255
MOST_COMMAND = 16 << 10
MOST_DROPS = 200
MOST_COUNT = 1 << 53
"""Bytes that are dropped in one place: the sum of all places still is a number of 64 bits."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KEY = re.compile(r"[0-9a-f]{32}")
LOST = (
    "nothing was heard of the sender for 6 s: it was killed, its machine went down, or the network "
    "between it and us; when it comes back, this goes on"
)


class TraceState(StrEnum):
    """Whether the sender has said how its command ended."""

    OPEN = "open"
    ENDED = "ended"


class Start(Record, frozen=True, kw_only=True):
    """What a sender says of itself at the begin."""

    host: str = ""
    user: str = ""
    cwd: str = ""
    command: tuple[str, ...] = ()
    title: str = ""
    pid: int = 0
    tty: bool = False
    started_at: datetime | None = None


class End(Record, frozen=True, kw_only=True):
    """How the command ended: an exit code, a signal, or neither (whoever can't know)."""

    code: int | None = None
    signal: int | None = None
    message: str = ""
    ended_at: datetime | None = None


class Positions(Record, frozen=True, kw_only=True):
    """A number of bytes for each stream."""

    stdout: int = 0
    stderr: int = 0

    def of(self, stream: str) -> int:
        return self.stdout if stream == "stdout" else self.stderr

    def at_least(self, other: Positions) -> Positions:
        return Positions(
            stdout=max(self.stdout, other.stdout), stderr=max(self.stderr, other.stderr)
        )


class Dropped(Record, frozen=True, kw_only=True):
    """So many bytes in all that the sender did not send, before the byte at `offset`."""

    stream: str
    offset: int
    count: int


class Trace(Record, frozen=True, kw_only=True):
    """`bytes` can be read (a kept one: archived or in pieces); `over` came after its limit and was
    not kept; below `forgotten` the restart of the fabric took what an ephemeral one had said.

    `told` counts changes of state: it is the version of the run; `version` guards the row.
    """

    id: str
    namespace: str
    name: str
    sender: str
    key: str
    by: str
    kept: bool
    start: Start
    created_at: datetime
    heard_at: datetime
    state: TraceState = TraceState.OPEN
    lost: bool = False
    sealed: bool = False
    bytes: Positions = Positions()
    over: Positions = Positions()
    forgotten: Positions = Positions()
    dropped: tuple[Dropped, ...] = ()
    end: End | None = None
    ended_at: datetime | None = None
    told: int = 1
    version: int = 1

    @property
    def acked(self) -> Positions:
        """What the sender need not send again."""
        return Positions(
            stdout=self.bytes.stdout + self.over.stdout,
            stderr=self.bytes.stderr + self.over.stderr,
        )

    @property
    def over_now(self) -> bool:
        """Whether people are told that it has ended."""
        return self.lost or (self.state is TraceState.ENDED and (self.sealed or not self.kept))

    @property
    def started_at(self) -> datetime:
        """When the command started by the sender's clock, unless that can't be."""
        given = self.start.started_at
        return self.created_at if given is None else min(given, self.created_at)


class Frame(msgspec.Struct, frozen=True):
    """A piece of what a sender sends: bytes at an offset, or how many it `dropped` there."""

    stream: str
    offset: int
    time_us: int
    data: bytes = b""
    dropped: int = 0


class News(msgspec.Struct, frozen=True):
    """What frames hold beyond what was known: the output in order, drops, and how far that goes."""

    frames: tuple[Frame, ...]
    dropped: tuple[Dropped, ...]
    acked: Positions


def check_name(name: str) -> str:
    """Raises Invalid for what can't be the name of a trace."""
    if NAME.fullmatch(name) is None:
        raise Invalid(
            "trace_name",
            f"{name[:80]!r} can't be the name of a trace: use 1 to 100 letters, digits and ._- "
            "beginning with a letter or digit.",
        )
    return name


def check_sender(sender: str) -> str:
    """Raises Invalid for what can't be the id of a sender."""
    wrong = any(unicodedata.category(one) in ("Cc", "Cs") for one in sender)
    if not 1 <= len(sender) <= MOST_SENDER or wrong:
        raise Invalid(
            "trace_sender",
            f"{sender[:80]!r} can't be the id of a sender: use 1 to {MOST_SENDER} characters "
            "without control characters (--id).",
        )
    return sender


def check_key(key: str) -> str:
    """Raises Invalid for what is no key of a trace."""
    if KEY.fullmatch(key) is None:
        raise Invalid("trace_key", "The key of a trace is 32 hexadecimal digits in lower case.")
    return key


def shortened(command: Iterable[str]) -> tuple[str, ...]:
    """The words of a command as far as they are kept."""
    words, room = [], MOST_COMMAND
    for word in command:
        if len(word) > room:
            words.append(word[:room] + "…")
            break
        words.append(word)
        room -= len(word) + 1
    return tuple(words)


def news(
    frames: Iterable[Frame], acked: Positions, *, gaps: bool, known: tuple[Dropped, ...] = ()
) -> News:
    """What of some frames is new; `known` are the drops that were told before. An offset beyond
    what is known is taken with `gaps`.

    Raises Conflict for it without: whoever keeps everything must not miss anything.
    """
    reached = {stream: acked.of(stream) for stream in STREAMS}
    counted = {(one.stream, one.offset): one.count for one in known}
    taken: list[Frame] = []
    dropped: list[Dropped] = []
    for frame in frames:
        at = reached[frame.stream]
        if frame.offset > at and not gaps:
            where = Positions(**reached)
            raise Conflict(
                "gap",
                f"The {frame.stream} of this trace is here up to byte {at}, but what came begins "
                f"at {frame.offset}: send what lies between.",
                acked=msgspec.structs.asdict(where),
            )
        if frame.dropped:
            if frame.dropped > counted.get((frame.stream, frame.offset), 0):
                drop = Dropped(stream=frame.stream, offset=frame.offset, count=frame.dropped)
                dropped.append(drop)
            continue
        end = frame.offset + len(frame.data)
        if end <= at:
            continue
        start = max(at, frame.offset)
        data = frame.data if start == frame.offset else frame.data[start - frame.offset :]
        taken.append(Frame(frame.stream, start, frame.time_us, data))
        reached[frame.stream] = end
    return News(tuple(taken), tuple(dropped), Positions(**reached))


def limited(found: News, trace: Trace, most: int) -> tuple[News, Positions]:
    """What of the news is kept under a limit of `most` bytes of both streams, and how much is not.

    Once something was left out nothing more is kept: there is no hole in what is.
    """
    room = max(0, most - trace.bytes.stdout - trace.bytes.stderr)  # it may have been lowered
    full = bool(trace.over.stdout or trace.over.stderr)
    kept: list[Frame] = []
    left = dict.fromkeys(STREAMS, 0)
    for frame in found.frames:
        fits = 0 if full else min(room, len(frame.data))
        if fits:
            kept.append(Frame(frame.stream, frame.offset, frame.time_us, frame.data[:fits]))
        room -= fits
        left[frame.stream] += len(frame.data) - fits
        full = full or fits < len(frame.data)
    return News(tuple(kept), found.dropped, found.acked), Positions(**left)


def with_drops(known: tuple[Dropped, ...], more: Iterable[Dropped]) -> tuple[Dropped, ...]:
    """All drops, by stream and offset. Of one place the larger count counts: a sender repeats what
    was not acknowledged. Of very many places the later ones are told as one."""
    counts = {(one.stream, one.offset): one.count for one in known}
    for one in more:
        place = (one.stream, one.offset)
        if place not in counts and len(counts) >= MOST_DROPS:
            place = max((p for p in counts if p[0] == one.stream), default=place)
            counts[place] = min(MOST_COUNT, counts.get(place, 0) + one.count)
        else:
            counts[place] = max(counts.get(place, 0), one.count)
    return tuple(Dropped(stream=s, offset=o, count=c) for (s, o), c in sorted(counts.items()))


def ended(trace: Trace, end: End, now: datetime) -> Trace:
    """The trace once its sender has said how its command ended; a repeat changes nothing."""
    if trace.state is TraceState.ENDED or trace.sealed:
        return trace
    at = now if end.ended_at is None else max(trace.started_at, min(end.ended_at, now))
    return _told(trace, state=TraceState.ENDED, lost=False, end=end, ended_at=at, heard_at=now)


def fell_silent(trace: Trace, now: datetime) -> Trace:
    """The trace once its sender was not heard of for too long."""
    if trace.state is TraceState.ENDED or trace.lost:
        return trace
    return _told(trace, lost=True, ended_at=now)


def came_back(trace: Trace, now: datetime) -> Trace:
    """The trace once its sender is heard of: a lost one is open again, unless it is archived."""
    if not trace.lost or trace.sealed:
        return trace
    return _told(trace, lost=False, ended_at=None, heard_at=now)


def archived(trace: Trace) -> Trace:
    """The trace once its log lies in the archive."""
    return _told(trace, sealed=True)


def may_seal(trace: Trace, now: datetime) -> bool:
    """Whether a kept trace is to be archived now."""
    if not trace.kept or trace.sealed:
        return False
    if trace.state is TraceState.ENDED:
        return True
    return trace.lost and now - trace.heard_at >= timedelta(seconds=FINAL_AFTER_S)


def look(
    before: Mapping[str, Heard], beats: Iterable[tuple[str, int]], now: float
) -> dict[str, Heard]:
    """What a server knows after all beats were read again at `now` (its monotonic seconds)."""
    seen = {}
    for id, beat in beats:
        known = before.get(id)
        same = known is not None and known.beat == beat
        seen[id] = known if known is not None and same else Heard(beat=beat, since=now)
    return seen


def _told(trace: Trace, **changed: object) -> Trace:
    return msgspec.structs.replace(trace, told=trace.told + 1, **changed)
