"""Between rows and records: times as integers, records as msgpack, states as words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row, Table

from quarterdeck.core.model import (
    Attempt,
    Counts,
    Facts,
    Halt,
    Load,
    Node,
    Order,
    Plan,
    Run,
    SignalOrder,
    Snapshot,
    Task,
    Wanted,
)
from quarterdeck.core.states import AttemptState, Outcome, Phase, RunState, TaskState
from quarterdeck.store.base import Tx
from quarterdeck.store.statements import inserting_absent

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
R = TypeVar("R")

# ids in one statement: far below what a statement may hold (SQLite 32,766, PostgreSQL 65,535)
BATCH = 500

# far quicker than to call the enumerations, for thousands of rows
WANTED = {one.value: one for one in Wanted}
ATTEMPT_STATES = {one.value: one for one in AttemptState}
TASK_STATES = {one.value: one for one in TaskState}
OUTCOMES = {one.value: one for one in Outcome}
SNAPSHOTS = msgspec.msgpack.Decoder(Snapshot)

pack = msgspec.msgpack.encode


def unpack(data: bytes, kind: type[R]) -> R:
    """A record from its blob."""
    return msgspec.msgpack.decode(data, type=kind)


def insert_absent(tx: Tx, table: Table, **values: object) -> bool:
    """Insert a row unless a unique column of it is there already; whether it was inserted.

    Unlike a look before an insert this holds when several servers do it at once.
    """
    return tx.execute(inserting_absent(table, tx.dialect.name), values).first() is not None


def plain(text: str, length: int | None = None) -> str:
    """A text from outside as every database can keep it: without NUL, cut to `length`."""
    return text.replace("\0", "\ufffd")[:length]


def parts(items: Sequence[R]) -> Iterator[Sequence[R]]:
    """Ids in portions that fit into one statement."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def to_us(time: datetime | None) -> int | None:
    """Microseconds since 1970."""
    return None if time is None else (time - EPOCH) // MICROSECOND


def from_us(value: int | None) -> datetime | None:
    """An aware UTC time."""
    return None if value is None else EPOCH + timedelta(microseconds=value)


def time_of(value: int) -> datetime:
    """An aware UTC time of a column that is never null."""
    return EPOCH + timedelta(microseconds=value)


def run_record(row: Row[Any], order: Order) -> Run:
    return Run(
        id=row.id,
        target=row.target,
        order=order,
        created_at=time_of(row.created_at),
        created_by=row.created_by,
        origin=row.origin,
        parent=row.parent,
        namespace=row.namespace,
        title=row.title,
        labels={} if row.labels is None else unpack(row.labels, dict[str, str]),
        plan=Plan() if row.plan is None else unpack(row.plan, Plan),
        deadline_at=from_us(row.deadline_at),
        state=RunState(row.state),
        outcome=_outcome(row.outcome),
        stop_asked=row.stop_asked,
        halt=None if row.halt is None else Halt(row.halt),
        reason=row.reason,
        started_at=from_us(row.started_at),
        ended_at=from_us(row.ended_at),
        counts=unpack(row.counts, Counts),
        version=row.version,
    )


def run_state_values(run: Run) -> dict[str, Any]:
    """The columns of a run that a step may change."""
    return {
        "state": run.state.value,
        "outcome": run.outcome.value if run.outcome else None,
        "stop_asked": run.stop_asked,
        "halt": run.halt.value if run.halt else None,
        "reason": run.reason,
        "started_at": to_us(run.started_at),
        "ended_at": to_us(run.ended_at),
        "counts": pack(run.counts),
        "version": run.version,
    }


def task_record(row: Row[Any]) -> Task:
    return Task(
        id=row.id,
        run=row.run,
        position=row.position,
        node=row.node,
        node_name=row.node_name,
        node_state=row.node_state,
        state=TASK_STATES[row.state],
        outcome=_outcome(row.outcome),
        exit_code=row.exit_code,
        tries=row.tries,
        reason=row.reason,
        changed=row.changed,
    )


def task_values(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "run": task.run,
        "position": task.position,
        "node": task.node,
        "node_name": task.node_name,
        "node_state": task.node_state,
        "state": task.state.value,
        "outcome": task.outcome.value if task.outcome else None,
        "exit_code": task.exit_code,
        "tries": task.tries,
        "reason": task.reason,
        "changed": task.changed,
    }


def attempt_record(row: Row[Any]) -> Attempt:
    return Attempt(
        id=row.id,
        run=row.run,
        task=row.task,
        node=row.node,
        node_name=row.node_name,
        number=row.number,
        wanted=WANTED[row.wanted],
        stops=row.stops,
        stop_signal=row.stop_signal,
        priority=row.priority,
        signals=() if row.signals is None else unpack(row.signals, tuple[SignalOrder, ...]),
        offered=row.offered,
        offer_until=from_us(row.offer_until),
        not_before=from_us(row.not_before),
        state=ATTEMPT_STATES[row.state],
        outcome=_outcome(row.outcome),
        snapshot=None if row.snapshot is None else SNAPSHOTS.decode(row.snapshot),
        log_gone=row.log_gone,
        sealed=row.sealed,
        released=row.released,
        version=row.version,
    )


def attempt_values(attempt: Attempt) -> dict[str, Any]:
    snapshot = attempt.snapshot
    return {
        "id": attempt.id,
        "run": attempt.run,
        "task": attempt.task,
        "node": attempt.node,
        "node_name": attempt.node_name,
        "number": attempt.number,
        "wanted": attempt.wanted.value,
        "stops": attempt.stops,
        "stop_signal": attempt.stop_signal,
        "priority": attempt.priority,
        "signals": pack(attempt.signals) if attempt.signals else None,
        "offered": attempt.offered,
        "offer_until": to_us(attempt.offer_until),
        "not_before": to_us(attempt.not_before),
        "state": attempt.state.value,
        "outcome": attempt.outcome.value if attempt.outcome else None,
        "snapshot": None if snapshot is None else pack(snapshot),
        "ended": snapshot is not None and snapshot.phase is Phase.ENDED,
        "log_gone": attempt.log_gone,
        "sealed": attempt.sealed,
        "released": attempt.released,
        "version": attempt.version,
    }


def node_record(row: Row[Any]) -> Node:
    return Node(
        id=row.id,
        name=row.given_name or row.name,
        public_key=row.public_key,
        created_at=time_of(row.created_at),
        own_name=row.name,
        given_name=row.given_name,
        labels=unpack(row.labels, dict[str, str]),
        server_labels=unpack(row.server_labels, dict[str, str]) if row.server_labels else {},
        draining=row.draining,
        approved=row.approved,
        decision=row.decision,
        session=row.session,
        last_seen=from_us(row.last_seen),
        quarantined=row.quarantined,
        removed=row.removed_at is not None,
        facts=unpack(row.facts, Facts),
        load=unpack(row.load, Load),
        full=row.full,
        unknown=msgspec.msgpack.decode(row.unknown, type=tuple[str, ...]),
    )


def node_values(node: Node) -> Mapping[str, Any]:
    """The columns of a node that its heartbeats change: nothing that people decide."""
    return {
        "name": node.own_name or node.name,
        "labels": pack(dict(node.labels)),
        "session": plain(node.session, 64),
        "last_seen": to_us(node.last_seen),
        "quarantined": node.quarantined,
        "facts": pack(node.facts),
        "load": pack(node.load),
        "full": plain(node.full),
        "unknown": pack(node.unknown),
    }


def decision_values(node: Node) -> Mapping[str, Any]:
    """The columns of a node that people change, its heartbeats never."""
    return {
        "given_name": node.given_name,
        "server_labels": pack(dict(node.server_labels)),
        "draining": node.draining,
        "approved": node.approved,
        "decision": node.decision,
    }


def _outcome(value: str | None) -> Outcome | None:
    return None if value is None else OUTCOMES[value]
