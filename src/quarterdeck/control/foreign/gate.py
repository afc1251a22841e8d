"""How much a sender may say.

A sender is a connection, or the address and port that datagrams come from; as ports cost nothing,
the datagrams of one address together may come `TOGETHER` times as fast. New traces are counted by
address.
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
TOGETHER = 4
TRACES_RATE = 5.0
"""New traces a second from one address; `TRACES_BURST` at once."""
TRACES_BURST = 1000.0
REMEMBERED = 10_000


class Gate:
    """The buckets of the senders of datagrams that were heard of last, and of all addresses."""

    def __init__(self) -> None:
        self._senders: dict[tuple[str, int], Bucket] = {}
        self._addresses: dict[str, Bucket] = {}
        self._traces: dict[str, Bucket] = {}

    def admits(self, peer: str, port: int, size: int, now: float) -> bool:
        """Whether a datagram is read."""
        address = _of(self._addresses, peer, RATE * TOGETHER, BURST * TOGETHER, now)
        sender = _of(self._senders, (peer, port), RATE, BURST, now)
        if address.fill(now) <= 0 or sender.fill(now) <= 0:
            return False
        address.spend(cost(size), now)
        sender.spend(cost(size), now)
        return True

    def begins(self, peer: str, now: float) -> bool:
        """Whether one more trace may begin."""
        bucket = _of(self._traces, peer, TRACES_RATE, TRACES_BURST, now)
        if bucket.fill(now) < 1:
            return False
        bucket.spend(1, now)
        return True


def bucket(now: float) -> Bucket:
    """That of one connection."""
    return Bucket(RATE, BURST, now)


def cost(size: int, messages: int = 1) -> int:
    """What so many bytes and messages cost."""
    return max(size, messages * LEAST_COST)


def _of(known: dict[K, Bucket], key: K, rate: float, most: float, now: float) -> Bucket:
    found = known.get(key)
    if found is None:
        while len(known) >= REMEMBERED:
            del known[next(iter(known))]
        found = known[key] = Bucket(rate, most, now)
    return found
