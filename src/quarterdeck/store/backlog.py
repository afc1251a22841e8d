"""How much lies in the record that somebody must still do: counts for status and metrics.

Every count goes over a partial index of open work, never over the history.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import and_, func, select

from quarterdeck.store.base import Tx
from quarterdeck.store.rows import from_us
from quarterdeck.store.tables import attempts, rejected, runs


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """`open_attempts`: not released, by state. The oldest are told by the start of their run."""

    open_attempts: dict[str, int]
    unsealed: int
    oldest_unsealed: datetime | None
    due_runs: int
    oldest_due: datetime | None
    rejected: int


def backlog(tx: Tx) -> Backlog:
    """What is open at this moment."""
    by_state = select(attempts.c.state, func.count()).where(~attempts.c.released)
    states = tx.execute(by_state.group_by(attempts.c.state)).all()
    to_seal = and_(attempts.c.ended, ~attempts.c.sealed)
    unsealed, first = tx.execute(
        select(func.count(), func.min(attempts.c.run)).where(to_seal)
    ).one()
    due, oldest_due = tx.execute(
        select(func.count(), func.min(runs.c.created_at)).where(runs.c.due)
    ).one()
    oldest = None
    if first is not None:
        oldest = tx.execute(select(runs.c.created_at).where(runs.c.id == first)).scalar()
    thrown = tx.execute(select(func.max(rejected.c.id))).scalar()
    return Backlog(
        open_attempts={row[0]: row[1] for row in states},
        unsealed=unsealed,
        oldest_unsealed=from_us(oldest),
        due_runs=due,
        oldest_due=from_us(oldest_due),
        rejected=thrown or 0,
    )
