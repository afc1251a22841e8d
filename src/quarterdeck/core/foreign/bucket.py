"""How much a sender may send: a bucket of tokens that fills with time.

A bucket may go below nothing: what was read from a connection is taken, and the connection waits
until the debt is paid. A datagram that finds nothing is dropped.
"""

from __future__ import annotations


class Bucket:
    """`rate` tokens a second come, at most `most` are kept."""

    __slots__ = ("_at", "_most", "_rate", "tokens")

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate = rate
        self._most = most
        self._at = now
        self.tokens = most

    def fill(self, now: float) -> float:
        """The tokens there are at `now`."""
        self.tokens = min(self._most, self.tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self.tokens

    def spend(self, cost: float, now: float) -> None:
        """Pay, whatever there is."""
        self.fill(now)
        self.tokens -= cost

    def wait_s(self) -> float:
        """Until there is something again, as of the last look."""
        return max(0.0, -self.tokens / self._rate)
