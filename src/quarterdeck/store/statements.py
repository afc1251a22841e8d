"""The statements of what happens for every run, or every few seconds, built once.

Building an expression of SQLAlchemy and finding its compiled form again costs several times what
SQLite needs to carry it out, so what is always the same is made at import or at its first use. A
name in `bindparam` is what `execute` is given; `ids` stands for one portion of `rows.parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    Insert,
    Table,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from quarterdeck.core.model import Halt, Wanted
from quarterdeck.core.states import TASK_MOVES
from quarterdeck.store.base import Tx
from quarterdeck.store.tables import attempts, logs, nodes, orders, runs, tasks, tokens

# columns of an attempt that keep their first value, or change only as `saving_attempts` says
FIXED = ("id", "run", "task", "node", "node_name", "number", "fresh", "sealed_at", "purged")


Rows = Sequence[dict[str, Any]]


class _Ready(msgspec.Struct, frozen=True):
    """A statement as the driver takes it: its text, the values that are always the same, and the
    order of all of them where the driver goes by position."""

    text: str
    fixed: dict[str, Any]
    order: itemgetter[Any] | None


_ready: WeakKeyDictionary[Dialect, dict[Any, _Ready]] = WeakKeyDictionary()


def execute_many(tx: Tx, statement: Insert | Update, rows: Rows) -> int:
    """Carry out a statement of this module once per row, each row with the same names; how many
    rows of the table it met.

    SQLAlchemy would look again at each value of each row. Ours are what drivers take as they are:
    integers, texts, bytes, flags and None.
    """
    if not rows:
        return 0
    known = _ready.setdefault(tx.dialect, {})
    key = (statement, tuple(rows[0]))
    ready = known.get(key)
    if ready is None:
        ready = known[key] = _made_ready(statement, tx.dialect, tuple(rows[0]))
    fixed, order = ready.fixed, ready.order
    whole: Any = [fixed | row for row in rows] if fixed else rows
    given = whole if order is None else [order(row) for row in whole]
    return tx.exec_driver_sql(ready.text, given).rowcount


def _made_ready(statement: Insert | Update, dialect: Dialect, names: tuple[str, ...]) -> _Ready:
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(names))
    fixed = {name: value for name, value in compiled.params.items() if name not in names}
    order = itemgetter(*compiled.positiontup) if compiled.positional else None
    return _Ready(str(compiled), fixed, order)


def among(column: Column[Any]) -> ColumnElement[bool]:
    """One of `ids`."""
    return column.in_(bindparam("ids", expanding=True))


TOKEN = select(tokens).where(tokens.c.id == bindparam("id"))
TOKEN_USED = (
    update(tokens)
    .where(
        tokens.c.id == bindparam("b_id"),
        or_(tokens.c.last_used.is_(None), tokens.c.last_used < bindparam("b_at")),
    )
    .values(last_used=bindparam("b_at"))
)

_IS_REMOVED = nodes.c.removed_at.is_not(None)
COUNT_REMOVED = select(func.count()).select_from(nodes).where(_IS_REMOVED)
REMOVED = select(nodes.c.id, nodes.c.public_key, nodes.c.removed_at).where(_IS_REMOVED)
REMOVED_AMONG = select(nodes.c.id).where(_IS_REMOVED, among(nodes.c.id))

SEEN = update(nodes).where(among(nodes.c.id)).values(last_seen=bindparam("at"))

INSERT_TASKS = insert(tasks)
INSERT_ATTEMPTS = insert(attempts)
INSERT_LOGS = insert(logs)
DELETE_LOGS = delete(logs).where(among(logs.c.attempt))

RUN = select(runs).where(runs.c.id == bindparam("id"))
RUN_BEGINNING = (
    select(runs.c.id)
    .where(runs.c.id >= bindparam("from_id"), runs.c.id < bindparam("to_id"))
    .limit(2)
)
TASKS_OF = (
    select(tasks)
    .where(tasks.c.run == bindparam("run"), tasks.c.changed > bindparam("after"))
    .order_by(tasks.c.position)
)
ATTEMPTS_OF = select(attempts).where(attempts.c.run == bindparam("run")).order_by(attempts.c.id)
ATTEMPTS_CHANGED = (
    select(attempts)
    .join(tasks)
    .where(attempts.c.run == bindparam("run"), tasks.c.changed > bindparam("after"))
    .order_by(attempts.c.id)
)
ATTEMPTS_BY_ID = select(attempts).where(among(attempts.c.id))
TASKS_BY_ID = select(tasks).where(among(tasks.c.id))
OPEN_ATTEMPTS = (
    select(attempts).where(among(attempts.c.node), ~attempts.c.released).order_by(attempts.c.id)
)
OPEN_OF_REMOVED = (
    select(attempts)
    .where(
        ~attempts.c.released,
        exists().where(nodes.c.id == attempts.c.node, nodes.c.removed_at.is_not(None)),
    )
    .order_by(attempts.c.id)
    .with_hint(attempts, "INDEXED BY ix_attempts_open", "sqlite")
)
ORDERS_OF = select(runs.c.id, orders.c.data).join(orders).where(among(runs.c.id))
FRESH = (
    select(attempts)
    .where(attempts.c.run == bindparam("run"), attempts.c.fresh)
    .limit(bindparam("most"))
    .with_hint(attempts, "INDEXED BY ix_attempts_fresh", "sqlite")
)
TO_SEAL = (
    select(attempts.c.id)
    .where(and_(attempts.c.ended, ~attempts.c.sealed), attempts.c.id > bindparam("after"))
    .order_by(attempts.c.id)
    .limit(bindparam("most"))
    .with_hint(attempts, "INDEXED BY ix_attempts_to_seal", "sqlite")
)

UNPLACED = (
    select(attempts)
    .where(attempts.c.node == "", ~attempts.c.released, attempts.c.wanted == Wanted.RUN.value)
    .order_by(attempts.c.id)
)
DUE_NODES = select(attempts.c.node).where(
    attempts.c.not_before.is_not(None),
    ~attempts.c.offered,
    ~attempts.c.released,
    attempts.c.not_before > bindparam("after"),
    attempts.c.not_before <= bindparam("now"),
)
OVERDUE_RUNS = (
    select(runs.c.id)
    .where(
        runs.c.deadline_at.is_not(None),
        runs.c.ended_at.is_(None),
        runs.c.deadline_at <= bindparam("now"),
        func.coalesce(runs.c.halt, "").not_in((Halt.DEADLINE.value, Halt.CANCELLED.value)),
        runs.c.stop_asked == 0,
    )
    .order_by(runs.c.deadline_at)
    .limit(bindparam("most"))
)

OFFER = (
    update(attempts)
    .where(
        among(attempts.c.id),
        attempts.c.snapshot.is_(None),
        ~attempts.c.released,
        attempts.c.wanted == Wanted.RUN.value,
    )
    .values(offered=True, version=attempts.c.version + 1)
    .returning(attempts.c.id, attempts.c.version)
)
MARK_DUE = update(runs).where(among(runs.c.id)).values(due=True)
MARK_SEEN = update(attempts).where(among(attempts.c.id)).values(fresh=False)


@cache
def saving_attempts(names: tuple[str, ...]) -> Update:
    """Columns of attempts (given as `b_NAME`) under the version guard `guard`."""
    return (
        update(attempts)
        .where(attempts.c.id == bindparam("b_id"), attempts.c.version == bindparam("guard"))
        .values(
            {name: bindparam("b_" + name) for name in names if name not in FIXED}
            | {"fresh": attempts.c.fresh | bindparam("b_fresh", type_=attempts.c.fresh.type)}
            | {"sealed_at": func.coalesce(attempts.c.sealed_at, bindparam("b_sealed_at"))}
            | {"purged": attempts.c.purged | bindparam("b_purged", type_=attempts.c.purged.type)}
        )
    )


@cache
def saving_nodes(names: tuple[str, ...]) -> Update:
    """Columns of nodes (given as `b_NAME`)."""
    return (
        update(nodes)
        .where(nodes.c.id == bindparam("b_id"))
        .values({name: bindparam("b_" + name) for name in names})
    )


@cache
def stepping_run(names: tuple[str, ...]) -> Update:
    """Columns of a run (given as `b_NAME`) under `guard`, from one of the states `allowed`."""
    return (
        update(runs)
        .where(
            runs.c.id == bindparam("b_id"),
            runs.c.version == bindparam("guard"),
            runs.c.state.in_(bindparam("allowed", expanding=True)),
        )
        .values({name: bindparam("b_" + name) for name in names})
    )


@cache
def moving_tasks(names: tuple[str, ...]) -> Update:
    """Columns of tasks (given as `b_NAME`), where the table of states has the move."""
    return (
        update(tasks)
        .where(tasks.c.id == bindparam("b_id"), _task_may_move())
        .values({name: bindparam("b_" + name) for name in names})
    )


PLACE = (
    update(attempts)
    .where(
        attempts.c.id == bindparam("b_id"),
        attempts.c.version == bindparam("guard"),
        attempts.c.node == "",
        ~attempts.c.released,
    )
    .values(
        node=bindparam("b_node"),
        node_name=bindparam("b_node_name"),
        offer_until=bindparam("b_offer_until"),
        version=attempts.c.version + 1,
    )
)


@cache
def inserting_absent(table: Table, dialect: str) -> Insert:
    """A row unless a unique column of it is there already; its key when it was inserted."""
    made = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return made.on_conflict_do_nothing().returning(*table.primary_key.columns)


def _task_may_move() -> ColumnElement[bool]:
    """Whether the table has the move of a row to `b_state`; what has not ended may stay."""
    to = bindparam("b_state", type_=tasks.c.state.type)
    allowed = [
        (at, state) for at, targets in TASK_MOVES.items() if targets for state in (at, *targets)
    ]
    return or_(*(and_(tasks.c.state == at.value, to == state.value) for at, state in allowed))
