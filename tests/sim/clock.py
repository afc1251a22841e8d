"""An event loop with virtual time: when nothing is ready, its clock jumps to the next timer.

Ten minutes of waiting pass in milliseconds, and with seeded chance the same program does the same
things in the same order. There are no threads: what would go to an executor runs at once, in line.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = datetime(2031, 5, 6, 7, 0, 0, tzinfo=UTC)


class Deadlock(Exception):
    """Every task waits for something that no timer and nothing ready can bring."""


class _Selector(selectors.SelectSelector):
    """Never sleeps: tells how long it should have. It looks at no file either: there is only the
    loop's own pipe, for signals and threads."""

    def __init__(self, skip: Callable[[float | None], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time begins at 0 and moves only by timers."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._skip))

    def time(self) -> float:
        return self._now

    def _skip(self, seconds: float | None) -> None:
        if seconds is None:
            raise Deadlock(
                f"At {self._now:g} s nothing is ready and no timer is set; these wait for ever: "
                + (", ".join(sorted(map(_place, asyncio.all_tasks(self)))) or "no task")
            )
        self._now += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Runs it now; the future is done."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits the future gets it
            done.set_exception(error)
        return done


def _place(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    where = f"{frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else "its start"
    return f"{task.get_name()} in {where}"


class SimClock:
    """`service.Clock` of the running virtual loop: now() is a fixed day plus the loop's time."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def _end(waited: asyncio.Future[None]) -> None:
    if not waited.done():  # else it was cancelled at the same instant
        waited.set_result(None)


async def pause(seconds: float) -> None:
    """Let virtual time pass."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    handle = loop.call_later(seconds, _end, over)
    try:
        await over
    finally:
        handle.cancel()


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int) -> T:
    """Run to the end in virtual time. Fails when tasks are left.

    The seed is also that of the module `random` meanwhile, which `service.jitter` uses.
    """

    async def whole() -> T:
        result = await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {sorted(map(_place, left))}"
        return result

    before = random.getstate()
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(whole())
    finally:
        random.setstate(before)
