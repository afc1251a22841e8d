"""What tests of PostgreSQL write and read: rows that are there as often as they were committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import insert, select, update

from quarterdeck.store.base import Tx
from quarterdeck.store.postgres import PostgresDatabase
from quarterdeck.store.tables import rejected

DEADLINE_S = 60.0


@asynccontextmanager
async def opened(*urls: str) -> AsyncIterator[list[PostgresDatabase]]:
    made = [PostgresDatabase(url) for url in urls]
    try:
        for database in made:
            await database.start()
        async with asyncio.timeout(DEADLINE_S):
            yield made
    finally:
        for database in made:
            await database.stop()


def note(word: str) -> Callable[[Tx], str]:
    """A unit that leaves one more row each time it is committed."""

    def unit(tx: Tx) -> str:
        tx.execute(insert(rejected).values(subject=word, data=b"", error="", at=0))
        return word

    return unit


def noted(tx: Tx) -> list[str]:
    return list(tx.scalars(select(rejected.c.subject).order_by(rejected.c.id)))


def count_up(tx: Tx) -> int:
    """Reads, decides, writes: two that overlap would lose one."""
    before = tx.scalar(select(rejected.c.at)) or 0
    tx.execute(update(rejected).values(at=before + 1))
    return before + 1
