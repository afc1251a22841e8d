"""The pieces of a kept trace until it is archived: each a range of one stream, without holes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import delete, func, select

from quarterdeck.store.base import Tx
from quarterdeck.store.tables import trace_pieces


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A range of one stream of a kept trace, in the row or under `object` of the archive. `times`
    are marks as they are archived (wire/marks.py)."""

    trace: str
    stream: str
    start: int
    length: int
    times: bytes
    object: str | None = None
    inline: bytes = b""


def add(tx: Tx, pieces: Iterable[Piece]) -> None:
    """Keep pieces that follow those that are there."""
    for piece in pieces:
        tx.execute(trace_pieces.insert(), msgspec.structs.asdict(piece))


def page(
    tx: Tx, trace_id: str, stream: str, offset: int, limit: int, *, whole: bool = True
) -> list[Piece]:
    """The pieces of a stream that hold the byte at `offset` and what follows it, in order; without
    `whole` only where they are."""
    columns: tuple[Any, ...] = tuple(trace_pieces.c)
    if not whole:
        columns = tuple(c for c in columns if c.name != "inline")
    own = (trace_pieces.c.trace == trace_id, trace_pieces.c.stream == stream)
    # there is no hole: the last that begins before the byte holds it, none before that is read
    first = select(func.max(trace_pieces.c.start)).where(*own, trace_pieces.c.start <= offset)
    query = (
        select(*columns)
        .where(
            *own,
            trace_pieces.c.start >= func.coalesce(first.scalar_subquery(), 0),
            trace_pieces.c.start + trace_pieces.c.length > offset,
        )
        .order_by(trace_pieces.c.start)
        .limit(limit)
    )
    return [
        Piece(
            trace=row.trace,
            stream=row.stream,
            start=row.start,
            length=row.length,
            times=row.times,
            object=row.object,
            inline=(row.inline or b"") if whole else b"",
        )
        for row in tx.execute(query)
    ]


def drop(tx: Tx, trace_id: str) -> None:
    """They are in the archive."""
    tx.execute(delete(trace_pieces).where(trace_pieces.c.trace == trace_id))
