"""Which attempts are sealed, and where their archived output lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, select

from quarterdeck.store import statements as sql
from quarterdeck.store.archive import SealedLog, StreamLayout
from quarterdeck.store.base import Tx
from quarterdeck.store.rows import pack, parts
from quarterdeck.store.tables import logs


def save(tx: Tx, sealed: Sequence[SealedLog]) -> None:
    """Record sealed logs; a repeat after a crash replaces the row."""
    for part in parts([log.attempt for log in sealed]):
        tx.execute(sql.DELETE_LOGS, {"ids": part})
    rows = [
        {
            "attempt": log.attempt,
            "object": log.object,
            "inline": pack(log.inline) if log.object is None else None,
            "layout": pack(log.layout),
        }
        for log in sealed
    ]
    sql.execute_many(tx, sql.INSERT_LOGS, rows)


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
