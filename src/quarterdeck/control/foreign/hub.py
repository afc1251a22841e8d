"""What every listener calls: messages go through the gate into the book, and are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quarterdeck.control.foreign.book import Book, OpenTrace, Source, told_too_much
from quarterdeck.control.foreign.counts import Counts
from quarterdeck.control.foreign.gate import Allowance, Gate, cost
from quarterdeck.core.foreign import Bad, Bound, Closed, Line, Message, Told


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

    def datagram(self, protocol: str, peer: str, port: int, size: int) -> Source | None:
        """Whom a datagram is from; None, and counted, when it is not read."""
        now = self._monotonic()
        sender = self._gate.sender(peer, port, now)
        if self._gate.admits(peer, sender, size, now):
            return Source(protocol, peer, sender, connection=False)
        self._limit(self.counts_of(protocol), f"messages come faster than allowed (from {peer})")
        return None

    def connection(self, protocol: str, peer: str) -> Source:
        """Whom a new connection is from."""
        return Source(protocol, peer, Allowance(self._monotonic()), connection=True)

    def charge(self, source: Source, size: int, messages: int) -> float:
        """Pay for what was read from a connection; seconds until it may be read again."""
        source.may.bytes.spend(cost(size, messages), self._monotonic())
        wait_s = source.may.wait_s()
        if wait_s:
            self.counts_of(source.protocol).limited += messages
        return wait_s

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
        now, peer = self._monotonic(), source.peer
        if self.book.many or not self._gate.begins(peer, source.may, now, owing=source.connection):
            self._limit(counts, f"too many new names (from {peer})")
            return None
        return self.book.begin(source, line)

    def _limit(self, counts: Counts, problem: str) -> None:
        counts.limited += 1
        counts.problem = problem
