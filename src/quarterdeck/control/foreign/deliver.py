"""The loop that gives waiting lines to the service of traces.

`deliver` waits for a line; what came meanwhile goes together, `GATHER_S` after the last round at
the earliest. What the service can't take now stays in the book and is tried again.

`look` waits for a tick of `LOOK_S`: traces that were left are ended, all others are alive.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from quarterdeck.control.foreign.book import Book, OpenTrace
from quarterdeck.control.foreign.gate import Allowance
from quarterdeck.control.trace.service import Traces
from quarterdeck.core.trace import End, TraceState
from quarterdeck.errors import NotFound, QuarterdeckError, Unavailable
from quarterdeck.service import Clock, Poke
from quarterdeck.store.access import Principal

GATHER_S = 0.03
RETRY_S = 1.0
AT_ONCE = 32
LOOK_S = 0.5
ALIVE_S = 2.0


class Delivery:
    """`told` hears why lines can't be delivered."""

    def __init__(
        self,
        *,
        book: Book,
        traces: Traces,
        by: Principal,
        clock: Clock,
        poke: Poke,
        told: Callable[[str, str], None],
    ) -> None:
        self._book = book
        self._traces = traces
        self._by = by
        self._clock = clock
        self._poke = poke
        self._told = told
        self._busy = False
        self._went = asyncio.Event()

    async def deliver(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await self._poke.wait()
            went = await self.round()
            await asyncio.sleep(GATHER_S if went else RETRY_S)

    async def look(self) -> None:
        """Loop: see the module's theory."""
        alive_at = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._clock.monotonic()
            self._book.look(now)
            if now - alive_at >= ALIVE_S:
                alive_at = now
                self._traces.alive(*self._book.ids())

    async def calm(self) -> None:
        """Wait until everything was delivered."""
        while self._busy or not self._book.idle:
            self._went.clear()
            await self._went.wait()

    async def round(self) -> bool:
        """Deliver what waits; whether all that was tried went.

        Traces that have begun come first, and few begin in one round, by turns of their senders: a
        crowd of new names does not hold up anybody else.
        """
        due = self._book.due()
        there = [found for found in due if found.trace is not None]
        new = by_turns([found for found in due if found.trace is None])
        went = True
        self._busy = True
        try:
            for start in range(0, len(there), AT_ONCE):
                went &= await self._send_all(there[start : start + AT_ONCE])
            return went & await self._send_all(new[:AT_ONCE])
        finally:
            for found in new[AT_ONCE:]:
                self._book.again(found)
            self._busy = False
            self._went.set()

    async def _send_all(self, group: list[OpenTrace]) -> bool:
        return all(await asyncio.gather(*map(self._send, group)))

    async def _send(self, found: OpenTrace) -> bool:
        try:
            await self._say(found)
        except Unavailable:
            self._book.again(found)
            return False
        except QuarterdeckError as error:
            self._told(found.key[0], error.message)
            self._book.forget(found)
        except asyncio.CancelledError:
            self._book.again(found)
            raise
        return True

    async def _say(self, found: OpenTrace) -> None:
        if found.trace is None:
            if found.empty:
                return
            begun = await self._traces.begin(found.new, by=self._by)
            found.begun(begun.trace, begun.acked)
        assert found.trace is not None
        if frames := found.frames():
            acked = await self._traces.take(found.trace, frames)
            if acked.state is TraceState.ENDED:
                self._book.renew(found)
                return
            self._book.freed(found.sent(frames))
        if found.waiting or found.dropped:
            self._book.again(found)
        elif found.closing:
            await self._end(found)

    async def _end(self, found: OpenTrace) -> None:
        assert found.trace is not None
        try:
            await self._traces.end(found.trace, End(message=found.closing))
        except NotFound:
            return


def by_turns(new: list[OpenTrace]) -> list[OpenTrace]:
    """The first of each sender, then the second of each, and so on."""
    seen: Counter[Allowance] = Counter()
    turns: list[tuple[int, OpenTrace]] = []
    for found in new:
        turns.append((seen[found.may], found))
        seen[found.may] += 1
    return [found for _, found in sorted(turns, key=lambda turn: turn[0])]
