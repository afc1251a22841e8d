"""Who is still there: the loops that write down who was heard of, and that tell who fell silent.

`write_beats` waits for a tick of `LOOK_S`, on each server: one unit for all senders heard of since
the last one.

`bring_back` waits for pokes of it: whoever was thought to be lost is open again. It is a loop of
its own, as a thousand that come back at once must not keep the beats of all others from being
written.

`find_lost` waits for a tick of `LOOK_S` (duty of one server): core/trace.py has the rule. A server
that takes the duty over, or could not look for a while, begins to count anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from quarterdeck.control.lease import TRACES, Leases
from quarterdeck.control.trace.service import Traces
from quarterdeck.core.lock import Heard
from quarterdeck.core.trace import DEAF_AFTER_S, GONE_AFTER_S, LOOK_S, look
from quarterdeck.errors import NotFound, Unavailable
from quarterdeck.service import Clock, Poke
from quarterdeck.store import trace as trace_store
from quarterdeck.store.base import Database


class Beats:
    """The loops."""

    def __init__(self, *, database: Database, clock: Clock, leases: Leases, traces: Traces) -> None:
        self._database = database
        self._clock = clock
        self._leases = leases
        self._traces = traces
        self._back = Poke()

    async def write_beats(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await asyncio.sleep(LOOK_S)
            heard = self._traces.heard()
            if not heard:
                continue
            unit = partial(trace_store.beat, heard=heard, now=self._clock.now())
            try:
                back = await self._database.write(unit)
            except Unavailable:  # the next tick tries again: a pause would make others look lost
                self._traces.alive(*heard)
                continue
            if back:
                self._back(*back)

    async def bring_back(self) -> None:
        """Loop: see the module's theory."""
        while True:
            for id in sorted(await self._back.wait()):
                with contextlib.suppress(NotFound, Unavailable):  # the next beat names it again
                    await self._traces.heard_again(id)

    async def find_lost(self) -> None:
        """Loop: see the module's theory."""
        heard: dict[str, Heard] = {}
        looked_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._leases.holds(TRACES):
                heard = {}
                continue
            try:
                found = await self._database.read(trace_store.beats)
            except Unavailable:
                continue
            now = self._clock.monotonic()
            heard = look(heard if now - looked_at < DEAF_AFTER_S else {}, found, now)
            looked_at = now
            for id, one in heard.items():
                if now - one.since >= GONE_AFTER_S:
                    await self._lose(id, one.beat)

    async def _lose(self, trace_id: str, beat: int) -> None:
        with contextlib.suppress(NotFound, Unavailable):
            await self._traces.lose(trace_id, beat=beat)
