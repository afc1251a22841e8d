"""The loop that gives waiting lines to the service of traces.

`deliver` waits for a line; what came meanwhile goes together, `GATHER_S` after the last round at
the earliest. What the service can't take now stays in the book and is tried again.

`look` waits for a tick of `LOOK_S`: traces that were left are ended, all others are alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quarterdeck.control.foreign.book import Book, OpenTrace
from quarterdeck.control.trace.service import Traces
from quarterdeck.core.trace import End, TraceState
from quarterdeck.errors import NotFound, QuarterdeckError, Unavailable
from quarterdeck.service import Clock, Poke
from quarterdeck.store.access import Principal

GATHER_S = 0.03
RETRY_S = 1.0
AT_ONCE = 32
LOOK_S = 1.0


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
        while True:
            await asyncio.sleep(LOOK_S)
            self._book.look(self._clock.monotonic())
            self._traces.alive(*self._book.ids())

    async def calm(self) -> None:
        """Wait until everything was delivered."""
        while self._busy or not self._book.idle:
            self._went.clear()
            await self._went.wait()

    async def round(self) -> bool:
        """Deliver all that waits; whether all of it went."""
        due = self._book.due()
        went = True
        self._busy = True
        try:
            while due:
                went &= all(await asyncio.gather(*map(self._send, due[:AT_ONCE])))
                del due[:AT_ONCE]
        finally:
            self._busy = False
            self._went.set()
            for found in due:
                self._book.again(found)
        return went

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
