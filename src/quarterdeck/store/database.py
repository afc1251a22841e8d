"""SQLite as the database of record: one writer thread with group commit, a few reader threads.

The writer takes what waits (interactive units first), runs each unit in its own savepoint inside
one IMMEDIATE transaction, commits once with fsync, and only then resolves their futures. Under
load one fsync carries many units; alone a unit waits for nobody.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, exc

from quarterdeck.errors import QuarterdeckError, Unavailable
from quarterdeck.service import caught
from quarterdeck.store.base import Tx
from quarterdeck.store.migrate import upgrade

T = TypeVar("T")

# (who waits, result or error, whether it is a result)
_Result = tuple[asyncio.Future[Any], Any, bool]

READERS = 4
GROUP = 64


class _Waiting(msgspec.Struct, frozen=True):
    unit: Callable[[Tx], Any]
    future: asyncio.Future[Any]


class SqliteDatabase:
    """A file on a local disk. Use from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = _engine(path, write=True)
        self._reader = _engine(path, write=False)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="db-read")
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()
        self._urgent: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()
        self._closing = False

    async def start(self) -> None:
        if self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, upgrade, self._writer)
        except exc.DBAPIError as error:
            raise _unavailable(error, self._path) from error
        self._closing = False
        self._thread = threading.Thread(
            target=self._write_all, args=(loop,), name="db-write", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
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

    def _read(self, unit: Callable[[Tx], T]) -> T:
        try:
            with self._reader.begin() as connection:
                return unit(connection)
        except exc.DBAPIError as error:
            raise _unavailable(error, self._path) from error

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

    def _commit(self, group: list[_Waiting]) -> list[_Result]:
        """One transaction for a group; when it fails as a whole, each unit gets one of its own."""
        results, error = caught(lambda: self._in_transaction(group))
        if results is not None:
            return results
        if len(group) > 1:
            return [result for waiting in group for result in self._commit([waiting])]
        assert error is not None
        return [(group[0].future, _as_ours(error, self._path), False)]

    def _in_transaction(self, group: list[_Waiting]) -> list[_Result]:
        with self._writer.begin() as connection:
            return [(w.future, *_in_savepoint(connection, w.unit)) for w in group]


def _in_savepoint(connection: Connection, unit: Callable[[Tx], Any]) -> tuple[Any, bool]:
    """(result, True) or (error, False). What breaks the transaction itself is raised."""

    def work() -> Any:
        with connection.begin_nested():
            return unit(connection)

    result, error = caught(work)
    if error is None:
        return result, True
    if isinstance(error, exc.OperationalError | sqlite3.OperationalError | exc.InvalidRequestError):
        raise error
    return error, False


def _resolve(results: list[_Result]) -> None:
    for future, value, good in results:
        if future.done():
            continue
        if good:
            future.set_result(value)
        else:
            future.set_exception(value)


def _engine(path: Path, *, write: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": 5.0},
        pool_size=1 if write else READERS,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=5000",
            "foreign_keys=ON",
            "cache_size=-32768",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _as_ours(error: Exception, path: Path) -> Exception:
    """Errors of the database become Unavailable with a sentence; others stay as they are."""
    if isinstance(error, exc.DBAPIError | sqlite3.Error | exc.InvalidRequestError):
        return _unavailable(error, path)
    return error


def _unavailable(error: BaseException, path: Path) -> QuarterdeckError:
    # after a full disk SQLite rolls back by itself, and the error of the lost savepoint is last
    while error.__context__ is not None:
        error = error.__context__
    text = str(getattr(error, "orig", error))
    if "full" in text:
        what = f"The disk of {path} is full; free some space, nothing recorded was lost."
    elif "readonly" in text or "read-only" in text:
        what = f"The database {path} can't be written: the directory or disk is read-only."
    elif "unable to open" in text:
        what = f"The database {path} can't be opened; check that its directory is writable."
    else:
        what = f"The database {path} answered: {text}."
    return Unavailable("database", what)
