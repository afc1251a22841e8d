"""Runs, tasks and attempts: create, look up, offer, and change under the version guard.

What a step of a run reads and writes is in store/step.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, and_, func, insert, select, update

from quarterdeck.core.access import EVERY
from quarterdeck.core.model import Attempt, Order, Run, Task
from quarterdeck.core.states import ATTEMPT_MOVES, RunState
from quarterdeck.errors import Broken, Conflict, NotFound
from quarterdeck.store import statements as sql
from quarterdeck.store.base import StaleWrite, Tx
from quarterdeck.store.rows import (
    BATCH,
    attempt_record,
    attempt_values,
    insert_absent,
    pack,
    parts,
    plain,
    run_record,
    run_state_values,
    task_record,
    task_values,
    to_us,
    unpack,
)
from quarterdeck.store.tables import attempts, orders, run_labels, runs


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs a list shows; `before` is the id of the last run of the page before."""

    namespace: str = EVERY
    state: RunState | None = None
    origin: str | None = None
    label: tuple[str, str] | None = None
    before: str | None = None
    limit: int = 50


def create(
    tx: Tx,
    run: Run,
    run_tasks: Sequence[Task],
    run_attempts: Sequence[Attempt],
    key: str | None,
    *,
    shared: bool = True,
) -> None:
    """Write a run with everything that belongs to it. Raises StaleWrite when another server has
    just written one with the same id or key. An order that is not `shared` is of this run alone,
    and goes with it."""
    data = pack(run.order)
    digest = hashlib.sha256(data if shared else run.id.encode() + data).hexdigest()
    insert_absent(tx, orders, hash=digest, data=data)
    made = insert_absent(
        tx,
        runs,
        id=run.id,
        namespace=run.namespace,
        origin=run.origin,
        parent=run.parent,
        title=plain(run.title),
        target=plain(run.target),
        order_hash=digest,
        created_at=to_us(run.created_at),
        created_by=run.created_by,
        labels=pack(dict(run.labels)) if run.labels else None,
        plan=pack(run.plan),
        deadline_at=to_us(run.deadline_at),
        idempotency_key=key,
        **run_state_values(run),
    )
    if not made:
        raise StaleWrite
    if run.labels:
        named = [{"run": run.id, "key": k, "value": v} for k, v in sorted(run.labels.items())]
        tx.execute(insert(run_labels), named)
    sql.execute_many(tx, sql.INSERT_TASKS, [task_values(task) for task in run_tasks])
    add_attempts(tx, run_attempts)


def add_attempts(tx: Tx, made: Sequence[Attempt]) -> None:
    """Write new attempts."""
    sql.execute_many(tx, sql.INSERT_ATTEMPTS, [attempt_values(attempt) for attempt in made])


def get(tx: Tx, run_id: str) -> Run:
    """A run with an empty order (`orders_of` gives it: it may be megabytes). Raises NotFound."""
    row = tx.execute(sql.RUN, {"id": run_id}).first()
    if row is None:
        raise NotFound("run_not_found", f"There is no run {run_id!r}; `qd runs` lists them.")
    return run_record(row, Order())


def find(tx: Tx, text: str, namespace: str = EVERY) -> str:
    """The id of the run that `text` names: a whole id, a unique beginning, or `last`; runs of
    another namespace are not there.

    Raises NotFound, and Conflict when the beginning fits several.
    """
    if text == "last":
        newest = _inside(select(runs.c.id).order_by(runs.c.id.desc()).limit(1), namespace)
        row = tx.execute(newest).first()
        if row is None:
            raise NotFound("run_not_found", "There is no run yet; start one with `qd run`.")
        return str(row.id)
    beginning = {"from_id": text, "to_id": text + "~"}
    found = tx.execute(_inside(sql.RUN_BEGINNING, namespace), beginning).all()
    if len(found) == 1 and text:
        return str(found[0].id)
    if len(found) > 1:
        raise Conflict("ambiguous_run", f"Several runs begin with {text!r}; give more characters.")
    raise NotFound("run_not_found", f"There is no run {text!r}; `qd runs` lists them.")


def by_key(tx: Tx, key: str) -> str | None:
    """The run made by an earlier request with the same idempotency key."""
    row = tx.execute(select(runs.c.id).where(runs.c.idempotency_key == key)).first()
    return None if row is None else str(row.id)


def page(tx: Tx, which: RunFilter) -> list[Run]:
    """Runs, newest first, with empty orders: a list does not need scripts and stdin."""
    query: Select[Any] = _inside(select(runs).order_by(runs.c.id.desc()), which.namespace)
    if which.state is not None:
        query = query.where(runs.c.state == which.state.value)
    if which.origin is not None:
        query = query.where(runs.c.origin == which.origin)
    if which.label is not None:
        key, value = which.label
        labelled = select(run_labels.c.run).where(
            run_labels.c.key == key, run_labels.c.value == value
        )
        query = query.where(runs.c.id.in_(labelled))
    if which.before is not None:
        query = query.where(runs.c.id < which.before)
    return [run_record(row, Order()) for row in tx.execute(query.limit(which.limit))]


def _inside(query: Select[Any], namespace: str) -> Select[Any]:
    return query if namespace == EVERY else query.where(runs.c.namespace == namespace)


def tasks_of(tx: Tx, run_id: str, *, changed_after: int = -1) -> list[Task]:
    """The tasks of a run that changed after a version of the run, by position."""
    rows = tx.execute(sql.TASKS_OF, {"run": run_id, "after": changed_after}).all()
    return [task_record(row) for row in rows]


def attempts_of(tx: Tx, run_id: str, *, changed_after: int = -1) -> list[Attempt]:
    """The attempts of a run whose tasks changed after a version of the run, oldest first."""
    if changed_after < 0:
        rows = tx.execute(sql.ATTEMPTS_OF, {"run": run_id}).all()
    else:
        rows = tx.execute(sql.ATTEMPTS_CHANGED, {"run": run_id, "after": changed_after}).all()
    return [attempt_record(row) for row in rows]


def attempts_by_id(tx: Tx, ids: Iterable[str]) -> dict[str, Attempt]:
    """The attempts that exist among `ids`."""
    found: dict[str, Attempt] = {}
    for part in parts(sorted(set(ids))):
        for row in tx.execute(sql.ATTEMPTS_BY_ID, {"ids": part}).all():
            found[row.id] = attempt_record(row)
    return found


def open_attempts(tx: Tx, node_ids: Iterable[str]) -> dict[str, list[Attempt]]:
    """Unreleased attempts by node, oldest first."""
    found: dict[str, list[Attempt]] = {}
    for part in parts(sorted(set(node_ids))):
        for row in tx.execute(sql.OPEN_ATTEMPTS, {"ids": part}).all():
            found.setdefault(row.node, []).append(attempt_record(row))
    return found


def open_of_removed(tx: Tx) -> list[Attempt]:
    """Unreleased attempts of removed nodes, oldest first; what has nothing open costs nothing."""
    return [attempt_record(row) for row in tx.execute(sql.OPEN_OF_REMOVED)]


def nodes_with_open_attempts(tx: Tx) -> set[str]:
    """Nodes that hold, or may hold, an unreleased attempt."""
    rows = tx.execute(select(attempts.c.node).where(~attempts.c.released).distinct())
    return {row.node for row in rows}


def open_counts(tx: Tx) -> dict[str, int]:
    """How many attempts that have not ended each node has."""
    query = select(attempts.c.node, func.count().label("open"))
    rows = tx.execute(
        query.where(~attempts.c.released, ~attempts.c.ended).group_by(attempts.c.node)
    )
    return {row.node: row.open for row in rows}


def unplaced(tx: Tx, run_id: str = "") -> list[Attempt]:
    """Attempts that wait for a node, of one run or of all, oldest first."""
    query = sql.UNPLACED.where(attempts.c.run == run_id) if run_id else sql.UNPLACED
    return [attempt_record(row) for row in tx.execute(query)]


def nodes_of_task(tx: Tx, task_id: str) -> set[str]:
    """Where a task was tried."""
    query = select(attempts.c.node).where(attempts.c.task == task_id, attempts.c.node != "")
    return {row.node for row in tx.execute(query)}


def orders_of(tx: Tx, run_ids: Iterable[str]) -> dict[str, Order]:
    """The orders of runs."""
    found: dict[str, Order] = {}
    for part in parts(sorted(set(run_ids))):
        for row in tx.execute(sql.ORDERS_OF, {"ids": part}):
            found[row.id] = unpack(row.data, Order)
    return found


def offer(tx: Tx, ids: Iterable[str]) -> dict[str, int]:
    """Record that these attempts are about to be sent: from now on the node's word is needed.

    The ids that may be sent, with their new versions: what was called off or reported meanwhile is
    not among them. An attempt that was offered before is offered anew, so that the server that
    offered it first can't withdraw it any more.
    """
    offered: dict[str, int] = {}
    for part in parts(sorted(set(ids))):
        rows = tx.execute(sql.OFFER, {"ids": part})
        offered.update((row.id, row.version) for row in rows)
    return offered


def withdraw(tx: Tx, offered: Mapping[str, int]) -> None:
    """Take `offer` back for attempts that certainly reached nobody, unless anything happened to
    them since."""
    for id, version in sorted(offered.items()):
        tx.execute(
            update(attempts)
            .where(
                attempts.c.id == id,
                attempts.c.version == version,
                attempts.c.snapshot.is_(None),
                attempts.c.offered,
            )
            .values(offered=False, version=attempts.c.version + 1)
        )


def expired_offers(tx: Tx, now: datetime) -> list[Attempt]:
    """Attempts never sent whose time to live is over."""
    rows = tx.execute(
        select(attempts).where(
            ~attempts.c.offered, ~attempts.c.released, attempts.c.offer_until <= to_us(now)
        )
    )
    return [attempt_record(row) for row in rows]


def place(tx: Tx, placed: Iterable[Attempt]) -> None:
    """Give attempts their nodes. Raises StaleWrite when one has a node or was called off."""
    rows = [
        {
            "b_id": attempt.id,
            "guard": attempt.version,
            "b_node": attempt.node,
            "b_node_name": attempt.node_name,
            "b_offer_until": to_us(attempt.offer_until),
        }
        for attempt in placed
    ]
    if sql.execute_many(tx, sql.PLACE, rows) != len(rows):
        raise StaleWrite


def postpone(tx: Tx, ids: Iterable[str], until: datetime) -> None:
    """Let attempts that were never sent wait on."""
    for part in parts(sorted(set(ids))):
        tx.execute(
            update(attempts)
            .where(attempts.c.id.in_(part), ~attempts.c.offered, ~attempts.c.released)
            .values(offer_until=to_us(until), version=attempts.c.version + 1)
        )


def due_nodes(tx: Tx, after: datetime, now: datetime) -> set[str]:
    """Nodes with an unsent attempt whose time came after `after`, until `now`."""
    return set(tx.scalars(sql.DUE_NODES, {"after": to_us(after), "now": to_us(now)}))


def to_seal(tx: Tx, limit: int, skip: Iterable[str], after: str = "") -> list[Attempt]:
    """Ended attempts whose log is not archived yet, oldest first, a page at a time."""
    skipped = set(skip)
    chosen: list[str] = []
    last = after
    while len(chosen) < limit:
        page = list(tx.scalars(sql.TO_SEAL, {"after": last, "most": BATCH}))
        chosen += [id for id in page if id not in skipped]
        if len(page) < BATCH:
            break
        last = page[-1]
    found = attempts_by_id(tx, chosen[:limit])
    return [found[id] for id in sorted(found)]


def to_purge(tx: Tx, before: datetime, limit: int) -> list[Attempt]:
    """Attempts sealed before a time whose chunks still lie in the cache."""
    query = select(attempts).where(
        and_(attempts.c.sealed, ~attempts.c.purged), attempts.c.sealed_at <= to_us(before)
    )
    return [attempt_record(row) for row in tx.execute(query.limit(limit))]


def mark_purged(tx: Tx, ids: Iterable[str]) -> None:
    for part in parts(sorted(set(ids))):
        tx.execute(update(attempts).where(attempts.c.id.in_(part)).values(purged=True))


def not_purged(tx: Tx, ids: Iterable[str]) -> list[tuple[str, str, str]]:
    """(attempt, run, node) of those among `ids` whose chunks may lie in the cache."""
    found = []
    for part in parts(sorted(set(ids))):
        query = select(attempts.c.id, attempts.c.run, attempts.c.node)
        rows = tx.execute(query.where(attempts.c.id.in_(part), ~attempts.c.purged))
        found += [(row.id, row.run, row.node) for row in rows]
    return found


def save_attempts(tx: Tx, changed: Iterable[tuple[Attempt, Attempt]], now: datetime) -> set[str]:
    """Write (before, after) pairs that differ; mark their runs due; the ids of these runs.

    Raises StaleWrite when a row has another version than `before`, Broken for a move that is not in
    the table.
    """
    values = []
    for before, after in changed:
        if after is before:
            continue
        if after.state not in (before.state, *ATTEMPT_MOVES[before.state]):
            raise Broken(
                "illegal_move",
                f"Attempt {after.id} can't go from {before.state} to {after.state}: this is a bug, "
                "nothing was written; please report it.",
            )
        row = attempt_values(msgspec.structs.replace(after, version=before.version + 1))
        row = {"b_" + name: value for name, value in row.items()}
        row["guard"] = before.version
        just_sealed = after.sealed and not before.sealed
        row["b_sealed_at"] = to_us(now) if just_sealed else None
        row["b_purged"] = just_sealed and not _has_output(after)
        row["b_fresh"] = after.state is not before.state or after.outcome is not before.outcome
        values.append(row)
    if not values:
        return set()
    names = tuple(name.removeprefix("b_") for name in values[0] if name.startswith("b_"))
    if sql.execute_many(tx, sql.saving_attempts(names), values) != len(values):
        raise StaleWrite
    due = {row["b_run"] for row in values if row["b_fresh"]}
    for part in parts(sorted(due)):
        tx.execute(sql.MARK_DUE, {"ids": part})
    return due


def _has_output(attempt: Attempt) -> bool:
    snapshot = attempt.snapshot
    if snapshot is None:
        return False
    # of a lost attempt nobody knows the lengths
    return attempt.log_gone or bool(snapshot.stdout.bytes or snapshot.stderr.bytes)
