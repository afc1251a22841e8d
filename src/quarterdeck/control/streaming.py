"""What is open with which token: the loop that ends it when the token was voided.

Waits for: a tick of `TICK_S` while anything is open here. The database says which tokens count, so
a revocation on any server, or an expiry, ends what is open on every server within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from quarterdeck.service import Clock
from quarterdeck.store import access as access_store
from quarterdeck.store.base import Database

TICK_S = 0.4


class Streaming:
    """Open streams and requests by token; each is told when it must end."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._open: dict[str, dict[object, Callable[[], None]]] = {}

    @contextmanager
    def by(self, token: str) -> Iterator[asyncio.Event]:
        """One stream of a token; the event is set when the token counts no more."""
        cut = asyncio.Event()
        with self.told(token, cut.set):
            yield cut

    @contextmanager
    def told(self, token: str, end: Callable[[], None]) -> Iterator[None]:
        """`end` is called when the token counts no more, with each tick while this is open."""
        key = object()
        self._open.setdefault(token, {})[key] = end
        try:
            yield
        finally:
            known = self._open[token]
            del known[key]
            if not known:
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
            for end in tuple(self._open.get(token, {}).values()):
                end()
