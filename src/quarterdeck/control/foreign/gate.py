"""How much a sender may say: bytes, and new names, each of which is a row in the database.

A sender is a connection, or the address and port that datagrams come from. As ports and connections
cost nothing, an address as a whole has a limit too, `TOGETHER` times as high. A connection that is
over its limit goes into debt and is read again when that is paid; a datagram over it is dropped.
"""

from __future__ import annotations

from typing import TypeVar

from quarterdeck.core.foreign.bucket import Bucket

K = TypeVar("K")

RATE = 4 << 20
"""Bytes a second from one sender; `BURST` at once."""
BURST = 16 << 20
LEAST_COST = 256
"""A message counts at least so much: 16,000 of the shortest a second."""
NAMES_RATE = 10.0
"""New traces a second from one sender; `NAMES_BURST` at once."""
NAMES_BURST = 300.0
MOST_NAMES_OWED = 1000.0
TOGETHER = 4
REMEMBERED = 10_000


class Allowance:
    """What somebody may say."""

    __slots__ = ("bytes", "names")

    def __init__(self, now: float, times: int = 1) -> None:
        self.bytes = Bucket(RATE * times, BURST * times, now)
        self.names = Bucket(NAMES_RATE * times, NAMES_BURST * times, now)

    def wait_s(self) -> float:
        """Until nothing is owed."""
        return max(self.bytes.wait_s(), self.names.wait_s())


class Gate:
    """The allowances of the senders of datagrams and of the addresses that were heard of last."""

    def __init__(self) -> None:
        self._senders: dict[tuple[str, int], Allowance] = {}
        self._addresses: dict[str, Allowance] = {}

    def sender(self, peer: str, port: int, now: float) -> Allowance:
        """That of a sender of datagrams."""
        return _of(self._senders, (peer, port), now)

    def admits(self, peer: str, sender: Allowance, size: int, now: float) -> bool:
        """Whether a datagram is read."""
        address = _of(self._addresses, peer, now, TOGETHER)
        if address.bytes.fill(now) <= 0 or sender.bytes.fill(now) <= 0:
            return False
        address.bytes.spend(cost(size), now)
        sender.bytes.spend(cost(size), now)
        return True

    def begins(self, peer: str, sender: Allowance, now: float, *, owing: bool) -> bool:
        """Whether a sender may begin one more trace; `owing` when it can be made to wait."""
        address = _of(self._addresses, peer, now, TOGETHER)
        least = 1 - MOST_NAMES_OWED if owing else 1
        if address.names.fill(now) < 1 or sender.names.fill(now) < least:
            return False
        address.names.spend(1, now)
        sender.names.spend(1, now)
        return True


def cost(size: int, messages: int = 1) -> int:
    """What so many bytes and messages cost."""
    return max(size, messages * LEAST_COST)


def _of(known: dict[K, Allowance], key: K, now: float, times: int = 1) -> Allowance:
    found = known.get(key)
    if found is None:
        while len(known) >= REMEMBERED:
            del known[next(iter(known))]
        found = known[key] = Allowance(now, times)
    return found
