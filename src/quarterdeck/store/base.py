"""The seam to the database: units of work on one connection, written by group commit or read.

A unit is a plain function of a transaction. Every unit of a write stands in its own savepoint: it
happens whole or not at all, and its caller hears of it only after the commit. Control puts units
together from the functions of this package; it never sees SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

Tx = Connection
T = TypeVar("T")


class Database(Protocol):
    """SQLite or PostgreSQL, behind one behaviour.

    Both calls raise Unavailable when the database can't be reached or written (full, read-only),
    and whatever the unit itself raised.
    """

    async def start(self) -> None:
        """Open, bring the schema up to date. May be called twice."""
        ...

    async def stop(self) -> None:
        """Finish what was accepted, then close. May be called twice."""
        ...

    async def write(self, unit: Callable[[Tx], T], *, bulk: bool = False) -> T:
        """Run a unit and commit it, possibly together with others; `bulk` waits behind others."""
        ...

    async def read(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit on a snapshot of what is committed."""
        ...


class StaleWrite(Exception):
    """A guarded update met another version of the row: load again and decide again."""
