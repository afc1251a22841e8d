"""Opens the database that the settings name: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from quarterdeck.settings import Secret
from quarterdeck.store.base import Database
from quarterdeck.store.sqlite import SqliteDatabase


def open_database(url: Secret, path: Path) -> Database:
    """Not yet started. An empty `url` means SQLite at `path`. Raises Invalid for a wrong one."""
    if not url:
        return SqliteDatabase(path)
    from quarterdeck.store.postgres import PostgresDatabase

    return PostgresDatabase(url.reveal())
