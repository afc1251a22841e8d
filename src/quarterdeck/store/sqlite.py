"""SQLite as the database of record: one file on a local disk, every commit with fsync.

The writer holds the file's write lock from the beginning of its transaction (BEGIN IMMEDIATE), so a
unit never meets a newer version of what it has read.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, UnaryExpression, create_engine, event, exc
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from quarterdeck.errors import QuarterdeckError, Unavailable
from quarterdeck.store.group import READERS, Fate, GroupedDatabase
from quarterdeck.store.migrate import upgrade


class SqliteDatabase(GroupedDatabase):
    """A file on a local disk. Use from one event loop."""

    def __init__(self, path: Path) -> None:
        super().__init__(_engine(path, write=True), _engine(path, write=False))
        self._path = path

    def _prepare(self) -> None:
        upgrade(self._writer)

    def _fate(self, error: Exception) -> Fate:
        """A full disk, a lock that is not given, a lost savepoint: all are operational."""
        if isinstance(
            error, exc.OperationalError | sqlite3.OperationalError | exc.InvalidRequestError
        ):
            return Fate.BROKEN
        return Fate.OWN

    def _said(self, error: BaseException) -> QuarterdeckError:
        # after a full disk SQLite rolls back by itself, and the error of the lost savepoint is last
        while error.__context__ is not None:
            error = error.__context__
        text = str(getattr(error, "orig", error))
        path = self._path
        if "full" in text:
            what = f"The disk of {path} is full; free some space, nothing recorded was lost."
        elif "readonly" in text or "read-only" in text:
            what = f"The database {path} can't be written: the directory or disk is read-only."
        elif "unable to open" in text:
            what = f"The database {path} can't be opened; check that its directory is writable."
        else:
            what = f"The database {path} answered: {text}."
        return Unavailable("database", what)


class _Compiler(SQLiteCompiler):
    """Flags as the partial indexes spell them. SQLAlchemy writes `released = 0`, for which SQLite
    does not use an index `WHERE NOT released`: it would read the whole table each time."""

    def visit_is_true_unary_operator(
        self, element: UnaryExpression[bool], operator: Any, **kw: Any
    ) -> str:
        return str(self.process(element.element, **kw))

    def visit_is_false_unary_operator(
        self, element: UnaryExpression[bool], operator: Any, **kw: Any
    ) -> str:
        return f"NOT {self.process(element.element, **kw)}"

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """`INDEXED BY`, where SQLite would take the wider one of two indexes."""
        return text


def _engine(path: Path, *, write: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": 5.0},
        pool_size=1 if write else READERS,
        max_overflow=0,
        hide_parameters=True,
    )
    engine.dialect.statement_compiler = _Compiler

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
