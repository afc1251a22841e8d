"""What beats said, on its way to the record.

Most beats say only that a node is there: one statement writes that for all of them. The whole row
is written when something else than figures has changed, and every `SAVE_S`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from quarterdeck.core.model import Facts, Node
from quarterdeck.service import jitter
from quarterdeck.store import node as node_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.wire.run import FactsMessage, facts_record

SAVE_S = 30.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HeardOf:
    """Nodes of which something is to be written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed: dict[str, Node] = {}
        self._seen: dict[str, datetime] = {}
        self._saved_at: dict[str, float] = {}
        self._facts: dict[str, FactsMessage] = {}

    @property
    def pending(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._changed or self._seen)

    def told(self, node_id: str, facts: FactsMessage) -> bool:
        """Whether these are the facts of the beat before, which has been looked at."""
        return self._facts.get(node_id) == facts

    def facts(self, node: Node, told: FactsMessage) -> Facts:
        """They hardly ever change, so they are not made anew from each beat."""
        if self._facts.get(node.id) == told:
            return node.facts
        self._facts[node.id] = told
        return facts_record(told)

    def note(self, before: Node, after: Node, now: float) -> None:
        """A node before and after a beat heard at `now` (monotonic)."""
        saved_at = self._saved_at.setdefault(after.id, now - SAVE_S * jitter())
        figures = msgspec.structs.replace(after, last_seen=before.last_seen, load=before.load)
        if figures == before and now - saved_at < SAVE_S and after.id not in self._changed:
            self._seen[after.id] = after.last_seen or EPOCH
        else:
            self._changed[after.id] = after
            self._saved_at[after.id] = now

    def forget(self, node_id: str) -> None:
        """It was removed."""
        for known in (self._changed, self._seen, self._saved_at, self._facts):
            known.pop(node_id, None)

    async def write(self, *, urgent: bool) -> None:
        """Write all there is in one unit."""
        changed, self._changed = list(self._changed.values()), {}
        seen, self._seen = self._seen, {}

        def unit(tx: Tx) -> None:
            node_store.save(tx, changed)
            if seen:
                node_store.seen(tx, seen.keys() - {node.id for node in changed}, min(seen.values()))

        await self._database.write(unit, bulk=not urgent)
