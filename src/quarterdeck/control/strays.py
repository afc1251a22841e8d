"""The strays loop: OUT does not keep what no attempt owns (duty of one server).

Waits for: a tick of `EVERY_S`. A node may send chunks of attempts that the database never had, of
attempts of other nodes, or after the purge of an archived log; nothing else would ever remove them,
and a cache that is full of them takes no output of anybody. The subjects that OUT holds are listed
first and the attempts read after that: an attempt is committed before its node hears of it, so what
is unknown then is nobody's.
"""

from __future__ import annotations

import asyncio

from quarterdeck.control.lease import PURGE, Leases
from quarterdeck.errors import Invalid
from quarterdeck.fabric.base import Fabric
from quarterdeck.fabric.topology import held_subjects
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database
from quarterdeck.telemetry import StraysPurged, Telemetry
from quarterdeck.wire import subjects

EVERY_S = 300.0
AT_ONCE = 2000
PURGES_PER_ROUND = 5000
"""What is left over has its turn in the next round: a hostile node keeps no server busy."""


class Strays:
    """Purges subjects of OUT whose attempt is unknown, another node's, or archived and purged."""

    def __init__(
        self, *, database: Database, fabric: Fabric, leases: Leases, telemetry: Telemetry
    ) -> None:
        self._database = database
        self._fabric = fabric
        self._leases = leases
        self._telemetry = telemetry

    async def purge_strays(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self._leases.holds(PURGE):
                await self.round()

    async def round(self) -> None:
        """Look at everything OUT holds once. Raises Unavailable."""
        held = await held_subjects(self._fabric, subjects.OUT, subjects.ALL_OUTPUT)
        strays: list[str] = []
        for start in range(0, len(held), AT_ONCE):
            strays += await self._strays(held[start : start + AT_ONCE])
            if len(strays) >= PURGES_PER_ROUND:
                break
        for subject in strays[:PURGES_PER_ROUND]:
            await self._fabric.purge(subjects.OUT, subject)
        if strays:
            self._telemetry.emit(StraysPurged(subjects=min(len(strays), PURGES_PER_ROUND)))

    async def _strays(self, held: list[str]) -> list[str]:
        attempts = {subject: _attempt_of(subject) for subject in held}
        ids = {id for id in attempts.values() if id}
        rows = await self._database.read(lambda tx: run_store.not_purged(tx, ids))
        owned = {subjects.output(node, run, id) for id, run, node in rows}
        return [subject for subject in held if subject not in owned]


def _attempt_of(subject: str) -> str:
    try:
        return subjects.attempt_of(subject)
    except Invalid:
        return ""
