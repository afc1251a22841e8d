"""Doing together what many ask for at once: one unit of work for a thousand nodes, not a thousand.

What is asked for in one turn of the loop, or while a batch is under way, makes the next batch. Who
asks alone waits for nobody. When a batch fails each of its items is done by itself, so that an item
that can't be done fails only whoever asked for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from quarterdeck.service import Services, guarded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Together(Generic[Item, Result]):
    """`work` does items, up to `most`, and gives one result for each, in order."""

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        services: Services,
        most: int,
    ) -> None:
        self._name = name
        self._work = work
        self._services = services
        self._most = most
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._working = False

    @property
    def waiting(self) -> int:
        """Items that are not being done yet."""
        return len(self._waiting)

    async def __call__(self, item: Item) -> Result:
        """The result for one item; raises what `work` raised for it."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if not self._working:
            self._working = True
            self._services.spawn(self._work_off(), self._name)
        return await done

    async def _work_off(self) -> None:
        try:
            await asyncio.sleep(0)  # who was woken in this turn has asked by then
            while self._waiting:
                count = min(self._most, len(self._waiting))
                await self._do([self._waiting.popleft() for _ in range(count)])
        finally:
            self._working = False
            for _, done in self._waiting:  # the server is stopping
                done.cancel()
            self._waiting.clear()

    async def _tried(self, items: Sequence[Item]) -> Sequence[Result] | Exception:
        return await self._work(items)

    async def _do(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await guarded(self._tried([item for item, _ in batch]), _itself)
            if not isinstance(results, Exception):
                for (_, done), result in zip(batch, results, strict=True):
                    if not done.done():
                        done.set_result(result)
            elif len(batch) == 1:
                if not batch[0][1].done():
                    batch[0][1].set_exception(results)
            else:
                for one in batch:
                    await self._do([one])
        finally:
            for _, done in batch:
                done.cancel()


def _itself(error: Exception) -> Exception:
    return error
