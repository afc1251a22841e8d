"""Nodes: enrolled once, kept current by their heartbeats."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from sqlalchemy import delete, insert, or_, select, update

from quarterdeck.core.model import Node
from quarterdeck.store import statements as sql
from quarterdeck.store.base import StaleWrite, Tx
from quarterdeck.store.rows import (
    decision_values,
    insert_absent,
    node_record,
    node_values,
    parts,
    plain,
    time_of,
    to_us,
)
from quarterdeck.store.tables import nodes, rejected

REJECTED = 1000
REJECTED_BYTES = 64 << 10


def enrol(tx: Tx, node: Node) -> Node:
    """Write a new node, or give back the one that has its id already."""
    made = insert_absent(
        tx,
        nodes,
        id=node.id,
        public_key=node.public_key,
        created_at=to_us(node.created_at),
        **node_values(node),
        **decision_values(node),
    )
    return node if made else get(tx, node.id) or node


def get(tx: Tx, node_id: str) -> Node | None:
    row = tx.execute(select(nodes).where(nodes.c.id == node_id)).first()
    return None if row is None else node_record(row)


def every(tx: Tx) -> list[Node]:
    """All nodes that were not removed, by name."""
    rows = tx.execute(
        select(nodes).where(nodes.c.removed_at.is_(None)).order_by(nodes.c.name, nodes.c.id)
    )
    return [node_record(row) for row in rows]


def remove(tx: Tx, node_id: str, now: datetime) -> bool:
    """Mark a node removed, for ever; False when it was before, or never was."""
    statement = (
        update(nodes)
        .where(nodes.c.id == node_id, nodes.c.removed_at.is_(None))
        .values(removed_at=to_us(now))
    )
    return tx.execute(statement).rowcount == 1


def removed(tx: Tx, known: int = -1) -> dict[str, tuple[str, datetime]] | None:
    """Removed nodes by id: their public key and since when; None while there are as many as
    `known` (a removal is for ever, so they are the same ones)."""
    if tx.scalars(sql.COUNT_REMOVED).one() == known:
        return None
    rows = tx.execute(sql.REMOVED)
    return {row.id: (row.public_key, time_of(row.removed_at)) for row in rows}


def removed_among(tx: Tx, ids: Iterable[str]) -> set[str]:
    """Those that were removed."""
    return {
        id
        for part in parts(sorted(set(ids)))
        for id in tx.scalars(sql.REMOVED_AMONG, {"ids": part})
    }


def some(tx: Tx, ids: Iterable[str]) -> list[Node]:
    """The nodes that exist among ids, removed ones too."""
    return [
        node_record(row)
        for part in parts(sorted(set(ids)))
        for row in tx.execute(select(nodes).where(nodes.c.id.in_(part)))
    ]


def save(tx: Tx, changed: Iterable[Node]) -> None:
    """Write what heartbeats said."""
    rows = [
        {"b_" + name: value for name, value in node_values(node).items()} | {"b_id": node.id}
        for node in changed
    ]
    if rows:
        names = [name.removeprefix("b_") for name in rows[0] if name != "b_id"]
        sql.execute_many(tx, sql.saving_nodes(tuple(names)), rows)


def seen(tx: Tx, ids: Iterable[str], at: datetime) -> None:
    """Write only that nodes were seen."""
    for part in parts(sorted(ids)):
        tx.execute(sql.SEEN, {"ids": part, "at": to_us(at)})


def decide(tx: Tx, before: Node, after: Node) -> Node:
    """Write what somebody decided about a node: its name, labels, drain or approval. The node with
    the number of this decision. Raises StaleWrite when another decision came first."""
    numbered = msgspec.structs.replace(after, decision=before.decision + 1)
    statement = (
        update(nodes)
        .where(
            nodes.c.id == before.id,
            nodes.c.decision == before.decision,
            nodes.c.removed_at.is_(None),
        )
        .values(decision_values(numbered))
    )
    if tx.execute(statement).rowcount != 1:
        raise StaleWrite
    return numbered


def decisions(tx: Tx) -> dict[str, int]:
    """How many decisions there were on each node about which there was any, or has to be."""
    query = select(nodes.c.id, nodes.c.decision).where(nodes.c.removed_at.is_(None))
    rows = tx.execute(query.where(or_(nodes.c.decision > 0, ~nodes.c.approved)))
    return {row.id: row.decision for row in rows}


def reject(tx: Tx, subject: str, data: bytes, error: str, now: datetime) -> None:
    """Keep a message that could not be taken, so that its ack loses nothing. The newest
    `REJECTED` are kept, cut to `REJECTED_BYTES`: a node that sends nothing else fills no disk."""
    result = tx.execute(
        insert(rejected).values(
            subject=plain(subject, 255),
            data=data[:REJECTED_BYTES],
            error=plain(error, 1000),
            at=to_us(now),
        )
    )
    newest = result.inserted_primary_key
    if newest is not None:
        tx.execute(delete(rejected).where(rejected.c.id <= newest[0] - REJECTED))
