"""Which attempts are sealed, and where their archived output lies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Row, delete, insert, select

from quarterdeck.store.archive import SealedLog, StreamLayout
from quarterdeck.store.base import Tx
from quarterdeck.store.rows import pack, parts
from quarterdeck.store.tables import logs


def save(tx: Tx, log: SealedLog) -> None:
    """Record a sealed log; a repeat after a crash replaces the row."""
    tx.execute(delete(logs).where(logs.c.attempt == log.attempt))
    tx.execute(
        insert(logs).values(
            attempt=log.attempt,
            object=log.object,
            inline=pack(log.inline) if log.object is None else None,
            layout=pack(log.layout),
        )
    )


def load(tx: Tx, attempts: Iterable[str]) -> dict[str, SealedLog]:
    """The sealed logs among some attempts."""
    found: dict[str, SealedLog] = {}
    for part in parts(sorted(set(attempts))):
        for row in tx.execute(select(logs).where(logs.c.attempt.in_(part))):
            found[row.attempt] = _sealed(row)
    return found


def _sealed(row: Row[Any]) -> SealedLog:
    return SealedLog(
        attempt=row.attempt,
        object=row.object,
        inline={}
        if row.inline is None
        else msgspec.msgpack.decode(row.inline, type=dict[str, bytes]),
        layout=msgspec.msgpack.decode(row.layout, type=dict[str, StreamLayout]),
    )
