"""Who streams with which token: the loop that cuts the streams of a token that was voided.

Waits for: a tick of `TICK_S` while streams are open here. The database says which tokens count, so
a revocation on any server, or an expiry, ends the open streams of every server within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from quarterdeck.service import Clock
from quarterdeck.store import access as access_store
from quarterdeck.store.base import Database

TICK_S = 0.4


class Streaming:
    """Open streams by token; each has an event that says that it must end."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._open: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def by(self, token: str) -> Iterator[asyncio.Event]:
        """One stream of a token; the event is set when the token counts no more."""
        cut = asyncio.Event()
        self._open.setdefault(token, set()).add(cut)
        try:
            yield cut
        finally:
            streams = self._open[token]
            streams.discard(cut)
            if not streams:
                del self._open[token]

    async def cut_voided(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._open:
                await self._look()

    async def _look(self) -> None:
        asked = set(self._open)
        counting = await self._database.read(
            partial(access_store.counting, ids=asked, now=self._clock.now())
        )
        for token in asked - counting:
            for cut in self._open.get(token, ()):
                cut.set()
