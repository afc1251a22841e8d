"""Lease rows: read all, extend one's own, take what is free; every change is guarded."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import bindparam, delete, func, select, update

from quarterdeck.core.lease import Lease
from quarterdeck.store.base import Tx
from quarterdeck.store.rows import insert_absent
from quarterdeck.store.tables import leases as table

# built once: each server looks at all of them and extends its own every other second
_EVERY = select(table).order_by(table.c.duty)
_CHANGE = (
    update(table)
    .where(
        table.c.duty == bindparam("seen_duty"),
        table.c.holder == bindparam("seen_holder"),
        table.c.term == bindparam("seen_term"),
        table.c.beat == bindparam("seen_beat"),
    )
    .values(holder=bindparam("b_holder"), term=bindparam("b_term"), beat=bindparam("b_beat"))
)


def every(tx: Tx) -> list[Lease]:
    """All leases, by duty."""
    rows = tx.execute(_EVERY)
    return [Lease(duty=row.duty, holder=row.holder, term=row.term, beat=row.beat) for row in rows]


def extend(tx: Tx, lease: Lease) -> Lease | None:
    """The lease with its next beat; None when somebody else took it."""
    return _change(tx, lease, holder=lease.holder, term=lease.term, beat=lease.beat + 1)


def take(tx: Tx, duty: str, holder: str, seen: Lease | None) -> Lease | None:
    """The lease in its next term; None when somebody was quicker."""
    if seen is None:
        first = Lease(duty=duty, holder=holder, term=1, beat=0)
        made = insert_absent(tx, table, duty=duty, holder=holder, term=1, beat=0)
        return first if made else None
    return _change(tx, seen, holder=holder, term=seen.term + 1, beat=0)


def give_back(tx: Tx, holder: str) -> None:
    """Let others take at once all that a server still holds."""
    tx.execute(update(table).where(table.c.holder == holder).values(holder=""))


def forget(tx: Tx, lease: Lease) -> None:
    """Delete a row that nobody moves any more."""
    tx.execute(
        delete(table).where(
            table.c.duty == lease.duty, table.c.term == lease.term, table.c.beat == lease.beat
        )
    )


def shared_time(tx: Tx) -> datetime | None:
    """The clock of the database server; None for a database without a server."""
    if tx.dialect.name != "postgresql":
        return None
    told: datetime = tx.execute(select(func.clock_timestamp())).scalar_one()
    return told.astimezone(UTC)


def _change(tx: Tx, seen: Lease, *, holder: str, term: int, beat: int) -> Lease | None:
    known = {
        "seen_duty": seen.duty,
        "seen_holder": seen.holder,
        "seen_term": seen.term,
        "seen_beat": seen.beat,
    }
    result = tx.execute(_CHANGE, known | {"b_holder": holder, "b_term": term, "b_beat": beat})
    changed = Lease(duty=seen.duty, holder=holder, term=term, beat=beat)
    return changed if result.rowcount == 1 else None
