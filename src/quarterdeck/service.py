"""Start and stop of every loop of a process; home of the clock, of randomness and of tasks.

A loop is a coroutine function that runs until it is cancelled. When it raises, the error becomes a
call of `failed` and the loop starts again with a growing delay: no loop dies of bad input. This
is the only module that catches everything and the only one that creates tasks.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from quarterdeck.errors import QuarterdeckError

T = TypeVar("T")
# (name of the loop or task, what happened as a sentence, seconds until it is started again)
Failed = Callable[[str, str, float], None]

FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
CALM_S = 30.0
MAX_TROUBLES = 100
MAX_DOUBLINGS = 20
PACKAGE = "quarterdeck."


class Clock(Protocol):
    """Time as an argument: records use `now`, loops use `monotonic`, never mixed."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


_machine_chance = random.SystemRandom()
_seeded_chance: ContextVar[random.Random] = ContextVar("seeded chance")


def entropy(length: int) -> bytes:
    """Random bytes fit for secrets."""
    return _seeded_chance.get(_machine_chance).randbytes(length)


def jitter() -> float:
    """A number in [0, 1) for spreading work."""
    return _seeded_chance.get(_machine_chance).random()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """For simulations: all chance of what is started inside comes from `seed`."""
    token = _seeded_chance.set(random.Random(seed))
    try:
        yield
    finally:
        _seeded_chance.reset(token)


class Backoff:
    """How long to wait before something that failed is tried again: full jitter. The cap of the
    wait doubles with each failure up to `cap_s`, and the wait is drawn evenly from nothing to that
    cap: ten thousand agents that lost their server in one instant come back evenly spread.
    """

    def __init__(
        self, first_s: float, cap_s: float, chance: Callable[[], float] | None = None
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._chance = chance or jitter
        self.failures = 0

    def wait_s(self, *, cap_s: float | None = None) -> float:
        """The wait after one more failure; `cap_s` is another limit for this one."""
        limit_s = self._cap_s if cap_s is None else cap_s
        cap = min(limit_s, self._first_s * 2.0 ** min(self.failures, MAX_DOUBLINGS))
        self.failures += 1
        return self._chance() * cap

    def reset(self) -> None:
        """It works again: the next failure is the first."""
        self.failures = 0


class Poke:
    """Wakes one loop and tells it which keys to look at; pokes that come early are kept."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._keys: set[str] = set()

    def __call__(self, *keys: str) -> None:
        self._keys.update(keys)
        self._event.set()

    async def wait(self, timeout_s: float | None = None) -> set[str]:
        """The keys poked since the last wait; empty after `timeout_s` without a poke."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return set()
        self._event.clear()
        keys, self._keys = self._keys, set()
        return keys


class Trouble(NamedTuple):
    """How a loop or task failed last."""

    name: str
    error: str
    at: datetime
    times: int


class Services:
    """The tasks of one process. `stop` cancels and awaits them, newest first; twice is fine."""

    def __init__(self, failed: Failed, clock: Clock) -> None:
        self._failed = failed
        self._clock = clock
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._troubles: dict[str, Trouble] = {}

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine as an owned task. An error that nobody awaits is told to `failed`."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def loop(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` for ever; start it again when it raises."""
        return self.spawn(self._supervise(name, work), name)

    def doing(self) -> list[str]:
        """The names of what runs now."""
        return sorted(task.get_name() for task in self._tasks)

    def places(self) -> list[tuple[str, str]]:
        """What runs now and where it has come to: (name, `module.function:line`), by name."""
        return sorted((task.get_name(), _place(task)) for task in self._tasks)

    def troubles(self) -> list[Trouble]:
        """The last error of each loop and task that ever failed, newest first; bounded."""
        return list(reversed(self._troubles.values()))

    def note(self, name: str, error: str) -> None:
        """Keep for `troubles` how work that mends itself failed; its owner tells others."""
        earlier = self._troubles.pop(name, None)
        times = earlier.times + 1 if earlier else 1
        self._troubles[name] = Trouble(name, error, self._clock.now(), times)
        while len(self._troubles) > MAX_TROUBLES:
            del self._troubles[next(iter(self._troubles))]

    def _tell(self, name: str, error: BaseException, delay_s: float) -> None:
        self.note(name, sentence(error))
        self._failed(name, sentence(error), delay_s)

    async def stop(self) -> None:
        while self._tasks:
            tasks = list(self._tasks)
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell(task.get_name(), error, 0.0)

    async def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S)
        while True:
            begun = self._clock.monotonic()
            try:
                await work()
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise
                if self._clock.monotonic() - begun > CALM_S:
                    backoff.reset()
                wait_s = backoff.wait_s()
                self._tell(name, error, wait_s)
                await asyncio.sleep(wait_s)
            else:
                return


def _place(task: asyncio.Task[Any]) -> str:
    """The innermost line of ours that a task waits in."""
    found = ""
    waits: Any = task.get_coro()
    while waits is not None:
        frame: Any = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)
        module = "" if frame is None else str(frame.f_globals.get("__name__", ""))
        if module.startswith(PACKAGE) and module != __name__:
            name = module.removeprefix(PACKAGE)
            found = f"{name}.{frame.f_code.co_name}:{frame.f_lineno}"
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return found


def still_wanted() -> None:
    """Raise CancelledError when the present task was told to end: `asyncio.wait_for`, in what a
    loop calls, may have swallowed that (Python before 3.12)."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def outside(work: Callable[[], T]) -> T:
    """The result of `work`, which waits for another machine, from a thread that nobody waits for:
    being cancelled leaves it behind, and the process ends without it. What has to be finished
    (a write to the disk) belongs into `asyncio.to_thread`, whose threads hold the process up.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(found: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(cast(T, found))

    def call() -> None:
        found, error = caught(work)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=call, name="outside", daemon=True).start()
    return await result


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up `outside`: a name server that is away answers after half a minute."""

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:
        return await outside(lambda: socket.getaddrinfo(host, port, **how))


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, for a process that ends when it is told to, whoever does not answer it."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


async def guarded(work: Awaitable[T], failed: Callable[[Exception], T]) -> T:
    """The result of `work`, or what `failed` makes of its error: for loops over foreign input."""
    try:
        return await work
    except Exception as error:
        return failed(error)


def caught(work: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    """(result, None), or (None, error) to be handed to whoever waits for the result."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def sentence(error: BaseException) -> str:
    """An error as one line: ours say it themselves, others with their type."""
    if isinstance(error, QuarterdeckError):
        return error.message
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def lock_directory(directory: Path, name: str = "lock") -> int | None:
    """The descriptor of a lock that one process at a time holds; None while another has it.

    Raises OSError.
    """
    fd = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:  # a file system without locks
        os.close(fd)
        raise
    return fd


def free_bytes(path: Path) -> int:
    """What a user who is not root may still write on the disk of `path`. Raises OSError."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 600 so that a crash leaves the old or the new content, never half, and
    a power cut after the return the new. Raises OSError: then the old one is there."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def until_told(parent_fd: int | None = None) -> str:
    """Wait for SIGTERM, SIGINT, or the end of the supervisor's pipe; the name of what came."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[str] = loop.create_future()

    def tell(what: str) -> None:
        if not told.done():
            told.set_result(what)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number.name)
    if parent_fd is not None:
        loop.add_reader(parent_fd, tell, "supervisor gone")
    try:
        return await told
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if parent_fd is not None:
            loop.remove_reader(parent_fd)


async def first_of(start: Coroutine[Any, Any, None], told: Coroutine[Any, Any, str]) -> str:
    """Run `start`, then wait for `told`; being told ends an unfinished start. What was told.

    An error of `start` is raised.
    """
    telling = asyncio.create_task(told, name="signals")  # first: no signal may come too early
    starting = asyncio.create_task(start, name="start")
    try:
        await asyncio.wait([starting, telling], return_when=asyncio.FIRST_COMPLETED)
        if not telling.done():
            await starting
        return await telling
    finally:
        starting.cancel()
        telling.cancel()
        await asyncio.gather(starting, telling, return_exceptions=True)
