"""A database that tells how long its units took and how many wait, whatever it is underneath."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from quarterdeck.errors import Unavailable
from quarterdeck.service import Clock
from quarterdeck.store.base import Database, Tx

T = TypeVar("T")

# ("write" or "read", seconds from the call to the commit or the result, whether it failed)
Told = Callable[[str, float, bool], None]


class MeasuredDatabase:
    """The same `Database`; `told` is called in the event loop after each unit.

    `failing` is the sentence of the last unit if the database could not do it, else empty.
    """

    def __init__(self, database: Database, clock: Clock, told: Told) -> None:
        self._database = database
        self._clock = clock
        self._told = told
        self.waiting = 0
        self.failing = ""

    async def start(self) -> None:
        await self._database.start()

    async def stop(self) -> None:
        await self._database.stop()

    async def write(self, unit: Callable[[Tx], T], *, bulk: bool = False) -> T:
        began = self._clock.monotonic()
        self.waiting += 1
        failed = False
        try:
            result = await self._database.write(unit, bulk=bulk)
            self.failing = ""
            return result
        except Unavailable as error:
            failed, self.failing = True, error.message
            raise
        finally:
            self.waiting -= 1
            self._told("write", self._clock.monotonic() - began, failed)

    async def read(self, unit: Callable[[Tx], T]) -> T:
        began = self._clock.monotonic()
        failed = False
        try:
            return await self._database.read(unit)
        except Unavailable:
            failed = True
            raise
        finally:
            self._told("read", self._clock.monotonic() - began, failed)
