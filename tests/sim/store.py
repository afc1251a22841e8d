"""What the simulated servers share: one database and one archive, in memory.

Units of work run in line, each in a transaction of its own, so three servers take turns in an order
that the seed decides. A unit takes a moment before and after its commit: a server that is killed in
between has committed or not, and does not learn which.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.pool import StaticPool

from quarterdeck.errors import Broken, Unavailable
from quarterdeck.service import jitter
from quarterdeck.store.archive import Archive
from quarterdeck.store.base import Tx
from quarterdeck.store.tables import metadata
from tests.sim.clock import pause

T = TypeVar("T")
UNIT_S = 0.004


class SharedStore:
    """The one database. `on_commit` is told which attempts a committed unit has changed.

    All use one connection, one after the other, and only what writes begins a transaction: nearly
    all units read, and a connection and a transaction of their own would cost more than they do.
    """

    def __init__(self) -> None:
        self.engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        event.listen(self.engine, "connect", _prepare)
        metadata.create_all(self.engine)
        self._connection = self.engine.connect()
        self._connection.begin()  # here in name only: `isolation_level` is None
        sqlite = self._connection.connection.dbapi_connection
        assert isinstance(sqlite, sqlite3.Connection)
        self._sqlite: sqlite3.Connection = sqlite
        for verb in ("INSERT", "UPDATE"):
            self._sqlite.execute(
                f"CREATE TRIGGER told_{verb} AFTER {verb} ON attempts "
                "BEGIN INSERT OR IGNORE INTO told VALUES (new.id); END"
            )
        self.on_commit: Callable[[list[str]], None] = lambda _: None
        self.objects: dict[str, bytes] = {}

    def run(self, unit: Callable[[Tx], T]) -> T:
        """A unit, committed, and checked by whoever listens."""
        self._sqlite.execute("BEGIN")
        try:
            result = unit(self._connection)
            changed = [id for (id,) in self._sqlite.execute("SELECT id FROM told")]
            if changed:
                self._sqlite.execute("DELETE FROM told")
        except BaseException:
            self._sqlite.execute("ROLLBACK")
            raise
        self._sqlite.execute("COMMIT")
        if changed:
            self.on_commit(changed)
        return result

    def look(self, unit: Callable[[Tx], T]) -> T:
        """A unit that only reads."""
        return unit(self._connection)

    def close(self) -> None:
        """Its memory is free again."""
        self._connection.close()
        self.engine.dispose()


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("CREATE TABLE told (id TEXT PRIMARY KEY)")


class SimDatabase:
    """One server's way to the shared store. `dead`: it was killed; `away`: it is cut off;
    `stalled`: everything waits, as for a process that was stopped."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self.dead = False
        self.away = False
        self._going = asyncio.Event()
        self._going.set()

    def stall(self) -> None:
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    async def start(self) -> None:
        """It is open."""

    async def stop(self) -> None:
        """Nothing is open."""

    async def write(self, unit: Callable[[Tx], T], *, bulk: bool = False) -> T:
        await self._reach()
        result = self._store.run(unit)
        await self._moment()
        return result

    async def read(self, unit: Callable[[Tx], T]) -> T:
        await self._reach()
        return self._store.look(unit)

    async def _reach(self) -> None:
        await self._moment()
        await self._going.wait()
        if self.dead:
            await asyncio.Event().wait()
        if self.away:
            raise Unavailable("database", "The database can't be reached.")

    async def _moment(self) -> None:
        await pause(UNIT_S * jitter())


class SimArchive(Archive):
    """Objects in the shared store; unfinished files in a directory of the server's own."""

    def __init__(self, store: SharedStore, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        for leftover in work.iterdir():
            leftover.unlink()
        self.work = work
        self._shared = store

    async def put(self, key: str, content: Path | bytes) -> None:
        await pause(UNIT_S)
        data = content if isinstance(content, bytes) else content.read_bytes()
        self._shared.objects[key] = data

    async def delete(self, key: str) -> None:
        with contextlib.suppress(KeyError):
            del self._shared.objects[key]

    async def delete_below(self, prefix: str) -> None:
        for key in [key for key in self._shared.objects if key.startswith(f"{prefix}/")]:
            del self._shared.objects[key]

    async def _range(self, key: str, start: int, length: int) -> bytes:
        if key not in self._shared.objects:
            raise Broken("archive", f"The archived object {key} is missing.")
        return self._shared.objects[key][start : start + length]
