"""The traces of foreign senders that are open here, and the lines that wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime

import msgspec

from quarterdeck.control.foreign.counts import Counts
from quarterdeck.control.foreign.gate import Allowance
from quarterdeck.control.trace.service import NewTrace
from quarterdeck.core.foreign import Closed, Line, sender_id, trace_name
from quarterdeck.core.trace import Frame, Positions, Start, Trace
from quarterdeck.wire.trace import PIECE, TOGETHER_US

LINGER_S = 3.0
"""So long a sender whose connection broke may take to come back into the same trace."""
SILENT_S = 300.0
MOST_OPEN = 5000
MOST_WAITING = 1 << 20
MOST_WAITING_IN_ALL = 32 << 20
PIECE_COST = 160
"""What a piece costs beside its bytes: lines that do not go together may be of one byte each."""
MOST_TOLD = 1000
TITLE = 200

Mark = tuple[str, str, str | None, str | None]


class Source:
    """A connection, or where a datagram came from (which has no end), and what it may say."""

    __slots__ = ("connection", "may", "peer", "protocol", "traces")

    def __init__(self, protocol: str, peer: str, may: Allowance, *, connection: bool) -> None:
        self.protocol = protocol
        self.peer = peer
        self.may = may
        self.connection = connection
        self.traces: set[OpenTrace] = set()


class Piece:
    """Lines of one stream that came so soon after one another that they go together."""

    __slots__ = ("data", "stream", "time_us")

    def __init__(self, stream: str, time_us: int, data: bytes) -> None:
        self.stream = stream
        self.time_us = time_us
        self.data = bytearray(data)

    @property
    def cost(self) -> int:
        return PIECE_COST + len(self.data)

    def takes(self, stream: str, time_us: int, size: int) -> bool:
        """Whether a line may be put behind."""
        return (
            stream == self.stream
            and 0 <= time_us - self.time_us <= TOGETHER_US
            and len(self.data) + size <= PIECE
        )


class OpenTrace:
    """One (protocol, name, sender), and what is on its way. `at` is how far it has come."""

    def __init__(self, key: tuple[str, str, str], new: NewTrace, source: Source) -> None:
        self.key = key
        self.new = new
        self.peer = source.peer
        self.may = source.may
        _, name, sender = key
        wanted = ((name, None), (None, sender), (name, sender))
        self.marks = tuple(_mark(source, *one) for one in wanted)
        self.trace: Trace | None = None
        self.at = {"stdout": 0, "stderr": 0}
        self.waiting: deque[Piece] = deque()
        self.waiting_bytes = 0
        self.sending: list[Piece] = []
        self.dropped: dict[str, int] = {}
        self.heard_at = 0.0
        self.holders: set[Source] = set()
        self.leave_at: float | None = None
        self.closing = ""

    def append(self, stream: str, time_us: int, data: bytes) -> int:
        """The bytes that have to be held for it."""
        cost = len(data)
        if self.waiting and self.waiting[-1].takes(stream, time_us, len(data)):
            self.waiting[-1].data += data
        else:
            self.waiting.append(Piece(stream, time_us, data))
            cost = self.waiting[-1].cost
        self.waiting_bytes += cost
        return cost

    def frames(self) -> list[Frame]:
        """What is to be sent next; the same again until `sent`."""
        if not self.sending and self.waiting:
            self.sending = list(self.waiting)
            self.waiting.clear()
        at = dict(self.at)
        found = []
        for piece in self.sending:
            found.append(Frame(piece.stream, at[piece.stream], piece.time_us, bytes(piece.data)))
            at[piece.stream] += len(piece.data)
        last_us = self.sending[-1].time_us if self.sending else 0
        found += [
            Frame(stream, at[stream], last_us, b"", count) for stream, count in self.dropped.items()
        ]
        return found

    def sent(self, frames: list[Frame]) -> int:
        """They are there; the bytes that need not be held any more."""
        size = sum(piece.cost for piece in self.sending)
        for frame in frames:
            self.at[frame.stream] += len(frame.data)
            if frame.dropped:
                left = self.dropped.pop(frame.stream) - frame.dropped
                if left:
                    self.dropped[frame.stream] = left
        self.sending = []
        self.waiting_bytes -= size
        return size

    @property
    def empty(self) -> bool:
        """There is nothing to be told of it."""
        return not (self.sending or self.waiting or self.dropped)

    def begun(self, trace: Trace, acked: Positions) -> None:
        self.trace = trace
        self.at = {"stdout": acked.stdout, "stderr": acked.stderr}

    def renew(self, key: str) -> None:
        """The trace is over on the other side: what waits belongs to a new one."""
        self.trace = None
        self.new = msgspec.structs.replace(self.new, key=key)


class Book:
    """Everything that is open. `changed` is called when there is something to deliver."""

    def __init__(
        self,
        *,
        namespace: str,
        new_key: Callable[[], str],
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._namespace = namespace
        self._new_key = new_key
        self._now = now
        self._changed = changed
        self._open: dict[tuple[str, str, str], OpenTrace] = {}
        self._marked: dict[Mark, dict[OpenTrace, None]] = {}
        self._due: dict[OpenTrace, None] = {}
        self.waiting_bytes = 0

    @property
    def full(self) -> bool:
        """So much waits that connections should not be read for a moment."""
        return self.waiting_bytes > MOST_WAITING_IN_ALL // 2

    @property
    def many(self) -> bool:
        return len(self._open) >= MOST_OPEN

    def find(self, source: Source, line: Line) -> OpenTrace | None:
        """The trace that a line belongs to, if it is open."""
        return self._open.get((source.protocol, line.name, line.sender or source.peer))

    def begin(self, source: Source, line: Line) -> OpenTrace:
        """The trace for a line that is the first one."""
        key = (source.protocol, line.name, line.sender or source.peer)
        title = f"{line.name or source.protocol}: {source.protocol} from {source.peer}"
        new = NewTrace(
            name=trace_name(line.name, source.protocol),
            sender=sender_id(line.sender, source.peer),
            key=self._new_key(),
            namespace=self._namespace,
            start=Start(
                host=source.peer,
                title=sender_id(title, source.protocol)[:TITLE],
                started_at=self._now(),
            ),
        )
        found = self._open[key] = OpenTrace(key, new, source)
        for mark in found.marks:
            self._marked.setdefault(mark, {})[found] = None
        return found

    def write(
        self, found: OpenTrace, source: Source, line: Line, at: float, counts: Counts
    ) -> None:
        """A line of an open trace, heard at `at`."""
        found.heard_at = at
        found.leave_at = None
        if source.connection and source not in found.holders:
            found.holders.add(source)
            source.traces.add(found)
        stream = "stderr" if line.error else "stdout"
        data = line.text + b"\n"
        if (
            stream in found.dropped  # one hole, where it is
            or found.waiting_bytes + len(data) > MOST_WAITING
            or self.waiting_bytes > MOST_WAITING_IN_ALL
        ):
            found.dropped[stream] = found.dropped.get(stream, 0) + len(data)
            counts.dropped += len(data)
            counts.problem = "lines were dropped: the fabric or the database takes none just now"
        else:
            time_us = line.time_us if line.time_us is not None else _us(self._now())
            self.waiting_bytes += found.append(stream, time_us, data)
        self.again(found)

    def close(self, source: Source, closed: Closed) -> None:
        """A sender says that traces are over: those that came from its address."""
        for found in list(self._marked.get(_mark(source, closed.name, closed.sender), ())):
            self._close(found, "the sender said that it is over")

    def gone(self, source: Source, at: float) -> None:
        """A connection was closed."""
        for found in source.traces:
            found.holders.discard(source)
            if not found.holders:
                found.leave_at = at + LINGER_S
        source.traces.clear()

    def look(self, at: float) -> None:
        """End what has been left or has been silent for long."""
        for found in list(self._open.values()):
            if found.leave_at is not None and found.leave_at <= at:
                self._close(found, "the connection was closed")
            elif at - found.heard_at >= SILENT_S:
                self._close(found, f"nothing came for {SILENT_S:g} s")

    def close_all(self, why: str) -> None:
        for found in list(self._open.values()):
            self._close(found, why)

    def senders(self, protocol: str) -> int:
        """How many traces of a protocol are open."""
        return sum(key[0] == protocol for key in self._open)

    @property
    def idle(self) -> bool:
        """Nothing waits."""
        return not self._due

    def ids(self) -> list[str]:
        """The traces that live because we do."""
        opened = [found.trace for found in self._open.values()]
        due = [found.trace for found in self._due]
        return [trace.id for trace in (*opened, *due) if trace is not None]

    def due(self) -> list[OpenTrace]:
        """What has something to deliver."""
        found, self._due = list(self._due), {}
        return found

    def again(self, found: OpenTrace) -> None:
        """It has something to deliver, now or still."""
        self._due[found] = None
        self._changed()

    def freed(self, size: int) -> None:
        self.waiting_bytes -= size

    def renew(self, found: OpenTrace) -> None:
        found.renew(self._new_key())
        self.again(found)

    def forget(self, found: OpenTrace) -> None:
        """It can't be delivered at all."""
        self.freed(found.waiting_bytes)
        if self._open.get(found.key) is found:
            self._leave(found)

    def _close(self, found: OpenTrace, why: str) -> None:
        found.closing = why
        self._leave(found)
        self.again(found)

    def _leave(self, found: OpenTrace) -> None:
        del self._open[found.key]
        for mark in found.marks:
            del self._marked[mark][found]
            if not self._marked[mark]:
                del self._marked[mark]
        for source in found.holders:
            source.traces.discard(found)
        found.holders.clear()


def _mark(source: Source, name: str | None, sender: str | None) -> Mark:
    """What a sender can say to end a trace."""
    return source.protocol, source.peer, name, sender


def told_too_much(line: Line) -> bool:
    """Whether its names are too long to be remembered."""
    return len(line.name) > MOST_TOLD or len(line.sender) > MOST_TOLD


def _us(now: datetime) -> int:
    return round(now.timestamp() * 1e6)
