"""Traces; each change of one also writes the run that people see of it.

The row is guarded by its version, the beats and lengths of ephemeral traces alone are not: they
only grow. A lost trace may be opened again, so its run is written from the record and not by the
table of moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, Select, bindparam, case, delete, literal_column, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from quarterdeck.core import traced
from quarterdeck.core.access import EVERY
from quarterdeck.core.trace import Dropped, End, Positions, Start, Trace, TraceState
from quarterdeck.errors import NotFound
from quarterdeck.store import run as run_store
from quarterdeck.store.archive import SealedLog
from quarterdeck.store.base import StaleWrite, Tx
from quarterdeck.store.rows import (
    attempt_values,
    from_us,
    insert_absent,
    pack,
    parts,
    plain,
    run_state_values,
    task_values,
    time_of,
    to_us,
    unpack,
)
from quarterdeck.store.tables import (
    attempts,
    logs,
    orders,
    run_labels,
    runs,
    tasks,
    trace_pieces,
    traces,
)

MOST_WATCHED = 1000

_ONE = select(traces).where(traces.c.id == bindparam("id"))
_NEWEST = (
    select(traces)
    .where(traces.c.namespace == bindparam("namespace"), traces.c.name == bindparam("name"))
    .order_by(traces.c.id.desc())
    .limit(MOST_WATCHED)
    .subquery()
)
# not by the end: what is delivered late ended long before it was said
_WATCHED = select(_NEWEST).where(
    or_(_NEWEST.c.ended_at.is_(None), _NEWEST.c.heard_at >= bindparam("since"))
)


class TraceFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which traces a list shows, newest first."""

    namespace: str = EVERY
    name: str = ""
    before: str | None = None
    limit: int = 50


def create(tx: Tx, trace: Trace) -> None:
    """Write a trace with its run. Raises StaleWrite when another server has just written one with
    this key."""
    attempt = traced.attempt_of(trace)
    run_store.create(
        tx, traced.run_of(trace), [traced.task_of(trace)], [attempt], None, shared=False
    )
    tx.execute(update(attempts).where(attempts.c.id == attempt.id).values(purged=True))
    made = insert_absent(
        tx,
        traces,
        id=trace.id,
        namespace=trace.namespace,
        name=trace.name,
        sender=trace.sender,
        key=trace.key,
        by=plain(trace.by, 64),
        kept=trace.kept,
        start=pack(trace.start),
        created_at=to_us(trace.created_at),
        **_values(trace),
    )
    if not made:
        raise StaleWrite


def get(tx: Tx, trace_id: str) -> Trace:
    """Raises NotFound."""
    row = tx.execute(_ONE, {"id": trace_id}).first()
    if row is None:
        raise NotFound(
            "trace_not_found",
            f"There is no trace {trace_id[:40]!r}: an ephemeral one is forgotten some time after "
            "its end. `GET /v1/traces` lists them.",
        )
    return _record(row)


def by_key(tx: Tx, namespace: str, key: str) -> Trace | None:
    """The trace that an earlier begin with this key made."""
    row = tx.execute(
        select(traces).where(traces.c.namespace == namespace, traces.c.key == key)
    ).first()
    return None if row is None else _record(row)


def page(tx: Tx, which: TraceFilter) -> list[Trace]:
    """Traces, newest first."""
    query: Select[Any] = select(traces).order_by(traces.c.id.desc())
    if which.namespace != EVERY:
        query = query.where(traces.c.namespace == which.namespace)
    if which.name:
        query = query.where(traces.c.name == which.name)
    if which.before is not None:
        query = query.where(traces.c.id < which.before)
    return [_record(row) for row in tx.execute(query.limit(which.limit))]


def watched(
    tx: Tx, *, namespace: str, name: str, since: datetime, known: Iterable[str] = ()
) -> list[Trace]:
    """The traces under a name that go on or were heard of after `since`, oldest first; of very many
    the newest, and of those that are `known` all that are there."""
    given = {"namespace": namespace, "name": name, "since": to_us(since)}
    found = {row.id: _record(row) for row in tx.execute(_WATCHED, given)}
    for part in parts(sorted(set(known) - found.keys())):
        more = select(traces).where(
            traces.c.id.in_(part), traces.c.namespace == namespace, traces.c.name == name
        )
        found.update({row.id: _record(row) for row in tx.execute(more)})
    return [found[id] for id in sorted(found)]


def save(tx: Tx, before: Trace, after: Trace, *, hashes: Mapping[str, str] | None = None) -> Trace:
    """Write what changed, and its run when people are to be told. Raises StaleWrite."""
    if after is before:
        return before
    written = msgspec.structs.replace(after, version=before.version + 1)
    done = tx.execute(
        update(traces)
        .where(traces.c.id == before.id, traces.c.version == before.version)
        .values(_values(written))
    )
    if done.rowcount != 1:
        raise StaleWrite
    if after.told != before.told:
        _show(tx, written, hashes)
    return written


def beat(tx: Tx, heard: Mapping[str, Positions], now: datetime) -> list[str]:
    """Count that these senders were heard of, and how far ephemeral ones have come; those that were
    thought to be lost."""
    if not heard:
        return []
    rows = [
        {"b_id": id, "at": to_us(now), "out": reached.stdout, "err": reached.stderr}
        for id, reached in sorted(heard.items())
    ]
    tx.execute(_BEAT, rows)
    lost: list[str] = []
    for part in parts(sorted(heard)):
        query = select(traces.c.id).where(
            traces.c.id.in_(part),
            traces.c.lost,
            ~traces.c.sealed,
            traces.c.state == TraceState.OPEN.value,
        )
        lost += tx.scalars(query)
    return lost


def beats(tx: Tx) -> list[tuple[str, int]]:
    """(trace, beat) of all that go on."""
    return [(row.id, row.beat) for row in tx.execute(_BEATS)]


def beat_of(tx: Tx, trace_id: str) -> int:
    """The present beat of a trace."""
    return int(tx.execute(select(traces.c.beat).where(traces.c.id == trace_id)).scalar_one())


def forget(tx: Tx, namespace: str, reached: Mapping[str, Positions] | None = None) -> list[Trace]:
    """The restart of the fabric took what the ephemeral traces of a namespace had said; those that
    had said something. `reached` is how far some had come, which no beat may have written yet."""
    if reached:
        far = sorted(reached.items())
        tx.execute(_REACHED, [{"b_id": id, "out": at.stdout, "err": at.stderr} for id, at in far])
    said = or_(
        traces.c.bytes_stdout > traces.c.forgotten_stdout,
        traces.c.bytes_stderr > traces.c.forgotten_stderr,
    )
    these = (traces.c.namespace == namespace, ~traces.c.kept, said)
    found = [_record(row) for row in tx.execute(select(traces).where(*these))]
    if found:
        tx.execute(
            update(traces)
            .where(*these)
            .values(
                forgotten_stdout=traces.c.bytes_stdout,
                forgotten_stderr=traces.c.bytes_stderr,
                version=traces.c.version + 1,
            )
        )
    return found


def namespaces(tx: Tx) -> list[str]:
    """Where there are ephemeral traces."""
    query = (
        select(traces.c.namespace)
        .where(~traces.c.kept, ~traces.c.sealed)  # none is; the index has no other rows
        .distinct()
        .with_hint(traces, "INDEXED BY ix_traces_over", "sqlite")
    )
    return sorted(tx.scalars(query))


def expired(tx: Tx, before: datetime, limit: int) -> list[str]:
    """Ephemeral traces that ended, or were lost, before a time."""
    query = (
        select(traces.c.id)
        .where(
            ~traces.c.kept,
            ~traces.c.sealed,
            traces.c.heard_at < to_us(before),
            traces.c.ended_at < to_us(before),
            or_(traces.c.state == TraceState.ENDED.value, traces.c.lost),
        )
        .limit(limit)
    )
    return list(tx.scalars(query))


def remove(tx: Tx, ids: Iterable[str]) -> None:
    """Delete traces with their runs; nothing of them is left."""
    for part in parts(sorted(set(ids))):
        hashes = list(tx.scalars(select(runs.c.order_hash).where(runs.c.id.in_(part))))
        names = [traced.attempt_of_trace(id) for id in part]
        tx.execute(delete(trace_pieces).where(trace_pieces.c.trace.in_(part)))
        tx.execute(delete(traces).where(traces.c.id.in_(part)))
        tx.execute(delete(logs).where(logs.c.attempt.in_(names)))
        for table in (attempts, tasks, run_labels):
            tx.execute(delete(table).where(table.c.run.in_(part)))
        tx.execute(delete(runs).where(runs.c.id.in_(part)))
        tx.execute(delete(orders).where(orders.c.hash.in_(hashes)))


def to_seal(tx: Tx, before: datetime, limit: int, after: str = "") -> list[Trace]:
    """Kept traces that ended, or were lost and not heard of since `before`, oldest first, a page at
    a time."""
    given = {"before": to_us(before), "after": after, "most": limit}
    return [_record(row) for row in tx.execute(_TO_SEAL, given)]


def hashes_of(log: SealedLog) -> dict[str, str]:
    """The hash of each stream of an archived log that has any bytes."""
    return {stream: one.sha256 for stream, one in log.layout.items() if one.bytes}


def _show(tx: Tx, trace: Trace, hashes: Mapping[str, str] | None) -> None:
    """Write the run, its task and its attempt anew."""
    run, task, attempt = (
        traced.run_of(trace),
        traced.task_of(trace),
        traced.attempt_of(trace, hashes),
    )
    tx.execute(update(runs).where(runs.c.id == run.id).values(run_state_values(run)))
    tx.execute(update(tasks).where(tasks.c.id == task.id).values(task_values(task)))
    values = {**attempt_values(attempt), "purged": True, "sealed_at": to_us(trace.ended_at)}
    tx.execute(update(attempts).where(attempts.c.id == attempt.id).values(values))


# a word and no parameter, so that SQLite sees that its partial index has these rows
_OPEN = traces.c.state == literal_column(f"'{TraceState.OPEN.value}'")

_OVER = or_(
    traces.c.state == TraceState.ENDED.value,
    traces.c.lost & (traces.c.heard_at <= bindparam("before")),
)
_TO_SEAL = (
    select(traces)
    .where(traces.c.kept, ~traces.c.sealed, _OVER, traces.c.id > bindparam("after"))
    .order_by(traces.c.id)
    .limit(bindparam("most"))
    .with_hint(traces, "INDEXED BY ix_traces_over", "sqlite")
)
_BEATS = select(traces.c.id, traces.c.beat).where(_OPEN, ~traces.c.lost)


def _grown(column: Any, name: str) -> ColumnElement[int]:
    given = bindparam(name, type_=column.type)
    return case((column < given, given), else_=column)


_REACHED = (
    update(traces)
    .where(traces.c.id == bindparam("b_id"), traces.c.state == TraceState.OPEN.value)
    .values(
        bytes_stdout=_grown(traces.c.bytes_stdout, "out"),
        bytes_stderr=_grown(traces.c.bytes_stderr, "err"),
    )
)
_BEAT = _REACHED.values(beat=traces.c.beat + 1, heard_at=bindparam("at"))


def _values(trace: Trace) -> dict[str, Any]:
    """The columns that change under the guard."""
    return {
        "state": trace.state.value,
        "lost": trace.lost,
        "sealed": trace.sealed,
        "heard_at": to_us(trace.heard_at),
        "bytes_stdout": trace.bytes.stdout,
        "bytes_stderr": trace.bytes.stderr,
        "over_stdout": trace.over.stdout,
        "over_stderr": trace.over.stderr,
        "forgotten_stdout": trace.forgotten.stdout,
        "forgotten_stderr": trace.forgotten.stderr,
        "dropped": pack(trace.dropped) if trace.dropped else None,
        "ending": None if trace.end is None else pack(trace.end),
        "ended_at": to_us(trace.ended_at),
        "told": trace.told,
        "version": trace.version,
    }


def _record(row: Row[Any]) -> Trace:
    return Trace(
        id=row.id,
        namespace=row.namespace,
        name=row.name,
        sender=row.sender,
        key=row.key,
        by=row.by,
        kept=row.kept,
        start=unpack(row.start, Start),
        created_at=time_of(row.created_at),
        heard_at=time_of(row.heard_at),
        state=TraceState(row.state),
        lost=row.lost,
        sealed=row.sealed,
        bytes=Positions(stdout=row.bytes_stdout, stderr=row.bytes_stderr),
        over=Positions(stdout=row.over_stdout, stderr=row.over_stderr),
        forgotten=Positions(stdout=row.forgotten_stdout, stderr=row.forgotten_stderr),
        dropped=() if row.dropped is None else unpack(row.dropped, tuple[Dropped, ...]),
        end=None if row.ending is None else unpack(row.ending, End),
        ended_at=from_us(row.ended_at),
        told=row.told,
        version=row.version,
    )
