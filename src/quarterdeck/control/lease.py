"""Duties among servers: the loop that keeps this server's leases and sees who else is alive.

Waits for: a tick of `BEAT_S`. Each round reads all leases, then extends what is held and takes what
may be taken (core/lease.py has the rules): this server's own row in a unit by itself, then the
duties, so that a duty's row that somebody keeps locked costs nobody its membership. Singleton
duties ask `holds` before each piece of work, shared ones ask `mine` with the key of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

import msgspec

from quarterdeck.core import lease as rules
from quarterdeck.core.lease import MEMBER, Lease, Seen
from quarterdeck.service import Clock
from quarterdeck.store import lease as lease_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import LeaseLost, LeaseTaken, Telemetry

OFFERS = "offers"
DUE = "due"
PURGE = "purge"
DEADLINES = "deadlines"
PLACES = "places"
TRACES = "traces"
DUTIES = (OFFERS, DUE, PURGE, DEADLINES, PLACES, TRACES)


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """One lease for people: `mine` when this server counts on it now."""

    duty: str
    holder: str
    term: int
    mine: bool


class Leases:
    """What this server holds, and which servers are alive."""

    def __init__(
        self, *, database: Database, clock: Clock, telemetry: Telemetry, server: str
    ) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._server = server
        self._own = MEMBER + server
        self._seen: dict[str, Seen] = {}
        self._held: dict[str, Lease] = {}
        self._written_at: dict[str, float] = {}
        self._turn = asyncio.Lock()

    def holds(self, duty: str) -> bool:
        """Whether this server does a singleton duty now."""
        return duty in self._held and rules.holds(
            self._written_at.get(duty), self._clock.monotonic()
        )

    def mine(self, key: str) -> bool:
        """Whether this server is the one that cares for a key."""
        return rules.home(self.servers(), key) == self._server

    def ours(self, keys: Iterable[str]) -> set[str]:
        """The keys among these that this server cares for."""
        servers = self.servers()
        if servers == [self._server]:
            return set(keys)
        return {key for key in keys if rules.home(servers, key) == self._server}

    def servers(self) -> list[str]:
        """The live servers; this one only while it can write its own row."""
        now = self._clock.monotonic()
        others = [id for id in rules.alive(self._seen.values(), now) if id != self._server]
        return sorted([*others, self._server]) if self.holds(self._own) else others

    def alone(self) -> bool:
        """Whether no other server is alive."""
        return self.servers() in ([], [self._server])

    def view(self) -> list[LeaseView]:
        """Every lease as last read."""
        return [
            LeaseView(
                duty=seen.lease.duty,
                holder=seen.lease.holder,
                term=seen.lease.term,
                mine=self.holds(duty),
            )
            for duty, seen in sorted(self._seen.items())
        ]

    async def keep(self) -> None:
        """Loop: extend and take, for ever."""
        while True:
            began = self._clock.monotonic()
            await self.round()
            # a round that had to wait for locks is followed by the next at once
            await asyncio.sleep(max(0.0, began + rules.BEAT_S - self._clock.monotonic()))

    async def round(self) -> None:
        """Read, extend, take; once before the loops of a server start. Two at once would each
        take the beats of the other for somebody else's."""
        async with self._turn:
            rows = await self._database.read(lease_store.every)
            now = self._clock.monotonic()
            self._seen = {row.duty: rules.look(self._seen.get(row.duty), row, now) for row in rows}
            await self._renew((self._own,), now)
            await self._renew(DUTIES, now)

    async def _renew(self, duties: tuple[str, ...], now: float) -> None:
        """Extend and take some leases in one unit."""
        held = await self._database.write(lambda tx: self._write(tx, duties, now))
        for duty, lease in held.items():
            if duty not in self._held:
                self._telemetry.emit(LeaseTaken(duty=duty, server=self._server, term=lease.term))
            self._seen[duty] = rules.look(self._seen.get(duty), lease, now)
            self._held[duty], self._written_at[duty] = lease, now
        for duty in duties:
            if duty not in held and self._held.pop(duty, None) is not None:
                self._telemetry.emit(LeaseLost(duty=duty, server=self._server))

    async def give_back(self) -> None:
        """At a clean stop, after `keep` was ended: let others take over at once. What counts is
        what the database says: a round that was cut off may have written more than it knows."""
        self._held = {}
        await self._database.write(partial(lease_store.give_back, holder=self._server))

    def _write(self, tx: Tx, duties: tuple[str, ...], now: float) -> dict[str, Lease]:
        held = {}
        for duty in duties:
            lease = self._one(tx, duty, now)
            if lease is not None:
                held[duty] = lease
        for duty, seen in self._seen.items() if duties is DUTIES else ():
            if duty.startswith(MEMBER) and now - seen.since > rules.FORGET_AFTER_S:
                lease_store.forget(tx, seen.lease)
        return held

    def _one(self, tx: Tx, duty: str, now: float) -> Lease | None:
        held = self._held.get(duty)
        if held is not None and (extended := lease_store.extend(tx, held)) is not None:
            return extended
        seen = self._seen.get(duty)
        if not rules.may_take(seen, self._server, now):
            return None
        return lease_store.take(tx, duty, self._server, None if seen is None else seen.lease)
