"""Who a token stands for, asked with every request: the record says it, at most `MOST_S` ago.

A token that is revoked here counts no more from the next request on; on another server as soon as
the fabric has told it (`TOKENS`), and in any case within `MOST_S`.
"""

from __future__ import annotations

import hashlib

from quarterdeck.control.changes import Changes
from quarterdeck.control.recent import Recent
from quarterdeck.control.uses import TokenUses
from quarterdeck.service import Clock, Services
from quarterdeck.store import access as access_store
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Database

TOKENS = "tokens"
"""The topic of revocations."""


class Principals:
    """Answers from the record or from what it said a moment ago."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        services: Services,
        changes: Changes,
        uses: TokenUses,
    ) -> None:
        self._database = database
        self._clock = clock
        self._changes = changes
        self._uses = uses
        self._recent: Recent[Principal] = Recent("principal", clock=clock, services=services)
        changes.on_foreign(self._heard)

    async def of(self, token: str) -> Principal:
        """Raises Denied."""

        async def read() -> Principal:
            now = self._clock.now()
            return await self._database.read(lambda tx: access_store.principal(tx, token, now))

        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = await self._recent.get(key, read)
        self._uses.note(found.id)
        return found

    def revoked(self) -> None:
        """A token was revoked here."""
        self._recent.forget_all()
        self._changes.tell(TOKENS)

    def _heard(self, topics: tuple[str, ...]) -> None:
        if TOKENS in topics:
            self._recent.forget_all()
