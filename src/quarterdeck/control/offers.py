"""Offers: the note, made before anything is sent, that a node may begin an attempt from now on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quarterdeck.control.moves import Full
from quarterdeck.control.steady import Steady
from quarterdeck.control.together import Together
from quarterdeck.core.place import startable
from quarterdeck.service import Services
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx

AT_ONCE = 500


class Offers:
    """The offers of many nodes at once are one unit of work. `slots` tells how many a node has."""

    def __init__(
        self,
        *,
        database: Database,
        services: Services,
        steady: Steady,
        slots: Callable[[str], int],
        full: Full,
    ) -> None:
        self._database = database
        self._steady = steady
        self._slots = slots
        self._full = full
        self._together = Together("offers", self._write, services=services, most=AT_ONCE)

    async def note(self, node: str, new: list[str]) -> dict[str, int]:
        """Note that attempts are about to be sent; those that were not called off meanwhile, and
        for which there is a slot, with their versions."""
        if not new:
            return {}
        offered, all_fit = await self._together((node, frozenset(new)))
        if not all_fit:
            self._full.add(node)
        return offered

    async def _write(
        self, asked: Sequence[tuple[str, frozenset[str]]]
    ) -> Sequence[tuple[dict[str, int], bool]]:
        """A node is asked for once: it has one conversation at a time."""
        slots, now = {node: self._slots(node) for node, _ in asked}, self._steady.now()

        def unit(tx: Tx) -> list[tuple[dict[str, int], bool]]:
            open_ones = run_store.open_attempts(tx, slots)
            fit = []
            for node, new in asked:
                here = open_ones.get(node, [])
                may = startable(here, slots[node], now) | {one.id for one in here if one.offered}
                fit.append(may & new)
            offered = run_store.offer(tx, (id for ids in fit for id in ids))
            return [
                ({id: offered[id] for id in ids & offered.keys()}, ids == new)
                for ids, (_, new) in zip(fit, asked, strict=True)
            ]

        return await self._database.write(unit)
