"""Group commit: one writer thread for many units of work, a few reader threads; for every database.

Theory. The writer takes what waits (interactive units first, one bulk unit behind them), runs each
unit in its own savepoint inside one transaction, commits once, and only then resolves their
futures. Under load one commit carries many units; alone a unit waits for nobody. What an error
means for the group is its fate, which each database tells:

- OWN: the unit's error; its savepoint is rolled back, the others stand
- BROKEN: the transaction can't go on; each unit of the group gets one of its own
- AGAIN, ONCE: another server was quicker; the unit runs again by itself, on what is committed then
  (several times, or once), in the end with the other servers kept out
- GONE: the connection broke before the commit, nothing was written; the group runs once more on a
  new connection
- AWAY: there is no connection to be had; nobody of the group needs to try again
- DOUBT: the connection broke at the commit; nobody knows, so nobody is told that it was written

A unit may therefore run several times, and only what its last run did is committed.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, Transaction, exc

from quarterdeck.errors import QuarterdeckError, Unavailable
from quarterdeck.service import caught
from quarterdeck.store.base import Tx

T = TypeVar("T")

READERS = 4
GROUP = 64
TRIES = 6
PATIENCE = 2  # after so many tries with others a unit gets one with nobody else


class Fate(Enum):
    """What an error means for the transaction it happened in."""

    OWN = auto()
    BROKEN = auto()
    AGAIN = auto()
    ONCE = auto()
    GONE = auto()
    AWAY = auto()
    DOUBT = auto()


HARMLESS = (Fate.OWN, Fate.AGAIN, Fate.ONCE)


class _Waiting(msgspec.Struct, frozen=True):
    unit: Callable[[Tx], Any]
    future: asyncio.Future[Any]


class _Result(msgspec.Struct, frozen=True):
    future: asyncio.Future[Any]
    value: Any = None
    error: Exception | None = None


class _Doubt(Exception):
    """The connection broke at the commit."""


class GroupedDatabase(ABC):
    """A `Database` on two engines. Use from one event loop."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="db-read")
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()
        self._urgent: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()
        self._closing = False

    @abstractmethod
    def _prepare(self) -> None:
        """Bring the schema up to date."""

    def _begin(self, connection: Connection, *, alone: bool) -> Transaction:
        """Begin to write; `alone` keeps the writes of other servers out."""
        return connection.begin()

    @abstractmethod
    def _fate(self, error: Exception) -> Fate:
        """What an error of a unit, or of the transaction around it, means."""

    @abstractmethod
    def _said(self, error: BaseException) -> QuarterdeckError:
        """An error of the database as one of ours."""

    async def start(self) -> None:
        if self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, self._prepare)
        except exc.DBAPIError as error:
            raise self._said(error) from error
        self._closing = False
        self._thread = threading.Thread(
            target=self._write_all, args=(loop,), name="db-write", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._wake:
                self._closing = True
                self._wake.notify()
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
            self._pool.shutdown()
        self._reader.dispose()
        self._writer.dispose()

    async def write(self, unit: Callable[[Tx], T], *, bulk: bool = False) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._closing or self._thread is None:
                raise Unavailable("database", "The database is closed: the server is stopping.")
            (self._bulk if bulk else self._urgent).append(_Waiting(unit, future))
            self._wake.notify()
        return await future

    async def read(self, unit: Callable[[Tx], T]) -> T:
        if self._thread is None:
            raise Unavailable("database", "The database is closed: the server is stopping.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, unit)

    def _read(self, unit: Callable[[Tx], T], tries: int = 2) -> T:
        try:
            with self._reader.begin() as connection:
                return unit(connection)
        except exc.DBAPIError as error:
            if tries > 1 and self._fate(error) in (Fate.GONE, Fate.AGAIN):
                return self._read(unit, tries - 1)
            raise self._said(error) from error

    def _next_group(self) -> list[_Waiting]:
        with self._wake:
            while not (self._urgent or self._bulk or self._closing):
                self._wake.wait()
            group: list[_Waiting] = []
            while self._urgent and len(group) < GROUP:
                group.append(self._urgent.popleft())
            if self._bulk and len(group) < GROUP:
                group.append(self._bulk.popleft())
            return group

    def _write_all(self, loop: asyncio.AbstractEventLoop) -> None:
        while group := self._next_group():
            results = self._commit(group)
            loop.call_soon_threadsafe(_resolve, results)

    def _commit(self, group: list[_Waiting], tries: int = TRIES) -> list[_Result]:
        """One transaction for a group, and what follows from its errors."""
        outcomes, broken = caught(lambda: self._in_transaction(group, tries))
        if outcomes is None:
            assert broken is not None
            return self._after(broken, group, tries)
        results: list[_Result] = []
        for waiting, (value, error) in zip(group, outcomes, strict=True):
            left = self._tries_left(error, tries)
            if left:
                results += self._commit([waiting], left)
            else:
                results.append(_Result(waiting.future, value, error and self._as_ours(error)))
        return results

    def _tries_left(self, error: Exception | None, tries: int) -> int:
        """How often a unit that ended with an error may run again."""
        match None if error is None else self._fate(error):
            case Fate.AGAIN:
                return tries - 1
            case Fate.ONCE:
                return min(tries - 1, 1)
            case _:
                return 0

    def _after(self, error: Exception, group: list[_Waiting], tries: int) -> list[_Result]:
        """The transaction failed as a whole."""
        fate = Fate.DOUBT if isinstance(error, _Doubt) else self._fate(error)
        if fate is Fate.GONE and tries == TRIES:
            return self._commit(group, tries - 1)
        alone = len(group) == 1 and not self._tries_left(error, tries)
        if alone or fate in (Fate.GONE, Fate.AWAY, Fate.DOUBT):
            return [_Result(waiting.future, error=self._as_ours(error)) for waiting in group]
        return [result for waiting in group for result in self._commit([waiting], tries - 1)]

    def _in_transaction(
        self, group: list[_Waiting], tries: int
    ) -> list[tuple[Any, Exception | None]]:
        """(value, None) or (None, error) of each unit, committed."""
        alone = tries <= TRIES - PATIENCE
        with (
            self._writer.connect() as connection,
            self._begin(connection, alone=alone) as transaction,
        ):
            outcomes = [self._in_savepoint(connection, waiting.unit) for waiting in group]
            try:
                transaction.commit()
            except exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise _Doubt from error
                raise
        return outcomes

    def _in_savepoint(
        self, connection: Connection, unit: Callable[[Tx], Any]
    ) -> tuple[Any, Exception | None]:
        """What breaks the transaction itself is raised."""

        def work() -> Any:
            with connection.begin_nested():
                return unit(connection)

        result, error = caught(work)
        if error is not None and self._fate(error) not in HARMLESS:
            raise error
        return result, error

    def _as_ours(self, error: Exception) -> Exception:
        """Errors of the database become a sentence; what a unit raised itself stays as it is."""
        if isinstance(error, _Doubt):
            return Unavailable(
                "database",
                "The connection to the database broke at the very commit: whether the change was "
                "recorded is not known. Look at what is there before you repeat it.",
            )
        if isinstance(error, exc.IntegrityError):
            return error
        if isinstance(error, exc.DBAPIError | exc.InvalidRequestError):
            return self._said(error)
        return error


def _resolve(results: list[_Result]) -> None:
    for result in results:
        if result.future.done():
            continue
        if result.error is None:
            result.future.set_result(result.value)
        else:
            result.future.set_exception(result.error)
