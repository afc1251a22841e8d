"""Who used a token last, and which tokens are forgotten.

A use is noted in memory and written at most once a minute and token, by each server. Tokens in the
URLs of traces (`minted`) are made by the thousand: a day after their end they are deleted.

Both loops wait for a tick only.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial

from quarterdeck.service import Clock
from quarterdeck.store import access as access_store
from quarterdeck.store.base import Database

TICK_S = 5.0
EVERY_S = 60.0
FORGET_TICK_S = 3600.0
KEPT_FOR = timedelta(days=1)


class TokenUses:
    """Uses that were not written yet, and when each token's was written last."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._seen: dict[str, datetime] = {}
        self._written: dict[str, float] = {}

    def note(self, token: str) -> None:
        """A token is used now."""
        self._seen[token] = self._clock.now()

    async def write_uses(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.write()

    async def write(self) -> None:
        """Write the uses whose turn has come."""
        now = self._clock.monotonic()
        self._written = {t: at for t, at in self._written.items() if now - at < EVERY_S}
        due = {t: at for t, at in self._seen.items() if t not in self._written}
        if not due:
            return
        await self._database.write(partial(access_store.mark_used, uses=due))
        for token, at in due.items():
            self._written[token] = now
            if self._seen[token] == at:
                del self._seen[token]

    async def forget_minted(self) -> None:
        """Loop: see the module's theory."""
        while True:
            before = self._clock.now() - KEPT_FOR
            await self._database.write(partial(access_store.forget_minted, before=before))
            await asyncio.sleep(FORGET_TICK_S)
