"""The time by which offers run out: one clock for all servers, that does not step.

It begins as the clock of the database, which all servers share (with SQLite there is one server,
and it is the machine's), and goes on by the monotonic clock of this machine. So a clock that is
set, here or there, while servers run ends no attempt early (docs/adr/0012).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from quarterdeck.service import Clock
from quarterdeck.store import lease as lease_store
from quarterdeck.store.base import Database


class Steady:
    """Asked for `now` once `begin` has returned."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._at = clock.now()
        self._since = clock.monotonic()

    async def begin(self) -> None:
        """Look at the shared clock, once. Raises Unavailable."""
        asked = self._clock.monotonic()
        told = await self._database.read(lease_store.shared_time)
        self._since = self._clock.monotonic()
        late = timedelta(seconds=(self._since - asked) / 2)
        self._at = self._clock.now() if told is None else told + late

    def now(self) -> datetime:
        """Aware UTC."""
        return self._at + timedelta(seconds=self._clock.monotonic() - self._since)
