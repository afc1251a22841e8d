"""Who holds a duty: leases with terms, decided without comparing the clocks of machines.

Rules:
1. A lease row has a holder, a term and a beat; the holder raises the beat, nobody else does.
2. Whoever sees the same term and beat for `TAKE_AFTER_S` of its own monotonic time may take the
   lease: the term grows by one. A free lease (no holder) is taken at once.
3. A holder counts on its lease for `HOLD_S` from the moment it began the last beat that was
   written. As `HOLD_S` is shorter, it stops before anybody takes over, unless it was itself stopped
   in between: so what is done under a lease is also guarded in the database.
4. A server is alive for the others while the beat of its own row (`MEMBER` + id) moves. Work that
   belongs to a key is done by the live server that scores highest for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from quarterdeck.core.model import Record

BEAT_S = 2.0
HOLD_S = 6.0
TAKE_AFTER_S = 8.0
FORGET_AFTER_S = 600.0
MEMBER = "server "


class Lease(Record, frozen=True, kw_only=True):
    """A row. `holder` is the id of a server, or empty when the duty was given back."""

    duty: str
    holder: str
    term: int
    beat: int


class Seen(Record, frozen=True, kw_only=True):
    """A lease as this server sees it: unchanged since `since` (monotonic seconds)."""

    lease: Lease
    since: float


def look(before: Seen | None, lease: Lease, now: float) -> Seen:
    """What is known after reading the row again."""
    if before is not None and before.lease == lease:
        return before
    return Seen(lease=lease, since=now)


def may_take(seen: Seen | None, me: str, now: float) -> bool:
    """Whether this server may take a lease that it does not hold."""
    if seen is None or not seen.lease.holder or seen.lease.holder == me:
        return True
    return now - seen.since >= TAKE_AFTER_S


def holds(written_at: float | None, now: float) -> bool:
    """Whether a lease whose last beat was begun at `written_at` still counts for its holder."""
    return written_at is not None and now - written_at < HOLD_S


def alive(seen: Iterable[Seen], now: float) -> list[str]:
    """The servers whose own rows still move, by id."""
    return sorted(
        one.lease.duty.removeprefix(MEMBER)
        for one in seen
        if one.lease.duty.startswith(MEMBER) and one.lease.holder and now - one.since < TAKE_AFTER_S
    )


def home(servers: Iterable[str], key: str) -> str | None:
    """The server that cares for a key: the same for all that see the same servers."""
    return max(servers, key=lambda server: (_score(server, key), server), default=None)


def _score(server: str, key: str) -> bytes:
    return blake2b(f"{server}/{key}".encode(), digest_size=8).digest()
