"""The databases under one conformance suite: `BACKENDS[name](directory)` makes one, not started.

The same directory gives the same database again. The session's PostgreSQL is started by the fixture
`postgres` before the first test that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quarterdeck.store.base import Database
from quarterdeck.store.postgres import PostgresDatabase
from quarterdeck.store.sqlite import SqliteDatabase
from tests.contracts.postgres_server import PostgresServer, needed

session: list[PostgresServer] = []


def on_sqlite(place: Path) -> SqliteDatabase:
    return SqliteDatabase(place / "quarterdeck.db")


def on_postgres(place: Path) -> PostgresDatabase:
    """Skips where PostgreSQL is not installed."""
    needed()
    (server,) = session
    return PostgresDatabase(server.at(place))


BACKENDS: dict[str, Callable[[Path], Database]] = {
    "sqlite": on_sqlite,
    "postgresql": on_postgres,
}
