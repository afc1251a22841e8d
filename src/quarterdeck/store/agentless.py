"""Agentless nodes as they were ordered; what was removed stays, so that its place can be used again
only by a new order."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row, Select, select, update

from quarterdeck.core.agentless import Agentless
from quarterdeck.errors import Denied
from quarterdeck.store.base import Tx
from quarterdeck.store.rows import insert_absent, pack, unpack
from quarterdeck.store.tables import agentless, nodes


def order(tx: Tx, wanted: Agentless) -> Agentless:
    """Write a new one, or change the one that is at this place by the same way and keeps its id."""
    made = insert_absent(tx, agentless, id=wanted.id, node=None, **_values(wanted))
    if made:
        return wanted
    row = tx.execute(
        select(agentless).where(agentless.c.via == wanted.via, agentless.c.place == wanted.place)
    ).one()
    known = _record(row)
    if known.node is not None and _removed(tx, known.node):
        tx.execute(agentless.delete().where(agentless.c.id == known.id))
        return order(tx, wanted)
    changed = _with(wanted, id=known.id, node=known.node)
    tx.execute(update(agentless).where(agentless.c.id == known.id).values(**_values(changed)))
    return changed


def every(tx: Tx) -> list[Agentless]:
    """All whose node was not removed, by id."""
    query = select(agentless).outerjoin(nodes, nodes.c.id == agentless.c.node)
    found = query.where(nodes.c.removed_at.is_(None)).order_by(agentless.c.id)
    return [_record(row) for row in tx.execute(found)]


def get(tx: Tx, id: str) -> Agentless | None:
    row = tx.execute(_one(id)).first()
    return None if row is None else _record(row)


def bind(tx: Tx, id: str, node: str) -> Agentless:
    """Note which node it is; the first one stays. Raises Denied."""
    tx.execute(
        update(agentless).where(agentless.c.id == id, agentless.c.node.is_(None)).values(node=node)
    )
    row = tx.execute(_one(id)).first()
    if row is None or row.node != node:
        raise Denied(
            "agentless_taken",
            "This machine has an identity already, which the node that reaches it has lost. Remove "
            "its node with `qd node remove` and add it again.",
        )
    return _record(row)


def _one(id: str) -> Select[Any]:
    return select(agentless).where(agentless.c.id == id)


def _removed(tx: Tx, node: str) -> bool:
    return tx.scalar(select(nodes.c.removed_at).where(nodes.c.id == node)) is not None


def _values(wanted: Agentless) -> dict[str, Any]:
    return {"via": wanted.via, "place": wanted.place, "data": pack(_with(wanted, node=None))}


def _record(row: Row[Any]) -> Agentless:
    return _with(unpack(row.data, Agentless), id=row.id, node=row.node)


def _with(record: Agentless, **changed: str | None) -> Agentless:
    return msgspec.structs.replace(record, **changed)
