"""What every listener calls: messages go through the gate into the book, and are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quarterdeck.control.foreign.book import Book, OpenTrace, Source, told_too_much
from quarterdeck.control.foreign.counts import Counts
from quarterdeck.control.foreign.gate import Gate, bucket, cost
from quarterdeck.core.foreign import Bad, Bound, Closed, Line, Message, Told
from quarterdeck.core.foreign.bucket import Bucket


class Hub:
    """One for all protocols."""

    def __init__(self, book: Book, gate: Gate, monotonic: Callable[[], float]) -> None:
        self.book = book
        self.counts: dict[str, Counts] = {}
        self._gate = gate
        self._monotonic = monotonic

    def counts_of(self, protocol: str) -> Counts:
        return self.counts.setdefault(protocol, Counts())

    def told(self, protocol: str, problem: str) -> None:
        self.counts_of(protocol).problem = problem

    def admits(self, source: Source, port: int, size: int) -> bool:
        """Whether a datagram is read; counted when it is not."""
        if self._gate.admits(source.peer, port, size, self._monotonic()):
            return True
        counts = self.counts_of(source.protocol)
        counts.limited += 1
        counts.problem = f"messages come faster than allowed (from {source.peer})"
        return False

    def charge(self, source: Source, bucket: Bucket, size: int, messages: int) -> float:
        """Pay for what was read from a connection; seconds until it may be read again."""
        bucket.spend(cost(size, messages), self._monotonic())
        wait_s = bucket.wait_s()
        if wait_s:
            self.counts_of(source.protocol).limited += messages
        return wait_s

    def new_bucket(self) -> Bucket:
        """For a new connection."""
        return bucket(self._monotonic())

    def take(self, source: Source, messages: Sequence[Message]) -> str | None:
        """Act on messages; the node that wants to hear that it is heard, if one does."""
        counts = self.counts_of(source.protocol)
        bound = None
        for message in messages:
            match message:
                case Bad():
                    counts.refuse(message.why, source.peer)
                    continue
                case Line():
                    if not self._line(source, message, counts):
                        continue
                case Closed():
                    self.book.close(source, message)
                case Bound():
                    bound = message.sender
                case Told():
                    pass
            counts.messages += 1
        return bound

    def gone(self, source: Source) -> None:
        """A connection was closed."""
        self.book.gone(source, self._monotonic())

    def _line(self, source: Source, line: Line, counts: Counts) -> bool:
        found = self.book.find(source, line) or self._begin(source, line, counts)
        if found is None:
            return False
        self.book.write(found, source, line, self._monotonic(), counts)
        return True

    def _begin(self, source: Source, line: Line, counts: Counts) -> OpenTrace | None:
        if told_too_much(line):
            counts.refuse("a name is too long", source.peer)
            return None
        now = self._monotonic()
        if self.book.many or not self._gate.begins(source.peer, now):
            counts.limited += 1
            counts.problem = f"too many new names (from {source.peer})"
            return None
        return self.book.begin(source, line)
