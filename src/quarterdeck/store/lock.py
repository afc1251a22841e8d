"""Locks: the claims to a name change together, under the version of its row; beats change alone.

The row of a lock is written with every change of its claims, so two servers that change one lock
at once meet there, and one of them decides again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row, Select, delete, select, update

from quarterdeck.core.lock import Claim, Lock, Who
from quarterdeck.errors import Conflict
from quarterdeck.store.base import StaleWrite, Tx
from quarterdeck.store.rows import from_us, insert_absent, pack, plain, time_of, to_us, unpack
from quarterdeck.store.tables import claims, locks


def load(tx: Tx, namespace: str, name: str) -> Lock:
    """A lock with its claims; one that nobody claims is empty."""
    found = _read(tx, select(locks).where(locks.c.namespace == namespace, locks.c.name == name))
    return found[0] if found else Lock(namespace=namespace, name=name)


def every(tx: Tx, namespace: str) -> list[Lock]:
    """All locks that somebody claims, by name."""
    return _read(tx, select(locks).where(locks.c.namespace == namespace).order_by(locks.c.name))


def save(tx: Tx, before: Lock, after: Lock) -> None:
    """Write what a step changed. Raises StaleWrite when another server was quicker, and
    Conflict for a new claim with the id of one to another lock."""
    if after.claims == before.claims:
        return
    _save_row(tx, before, after)
    known = {claim.id: claim for claim in before.claims}
    for claim in after.claims:
        old = known.pop(claim.id, None)
        if old is None:
            _insert(tx, after, claim)
        elif old != claim:
            tx.execute(
                update(claims)
                .where(claims.c.id == claim.id)
                .values(holding=claim.holding, leaving=claim.leaving, held_at=to_us(claim.held_at))
            )
    for id in known:
        tx.execute(delete(claims).where(claims.c.id == id))


def _insert(tx: Tx, lock: Lock, claim: Claim) -> None:
    if not insert_absent(tx, claims, **_values(lock, claim)):
        raise Conflict(
            "claim_id",
            f"There is a claim {claim.id} to another lock: use a new id for each claim.",
        )


def beat(tx: Tx, id: str) -> bool:
    """Write the next beat of a claim; False when there is no such claim any more."""
    done = tx.execute(update(claims).where(claims.c.id == id).values(beat=claims.c.beat + 1))
    return bool(done.rowcount)


def beats(tx: Tx) -> list[tuple[str, str, str, int]]:
    """(namespace, name, claim, beat) of every claim there is."""
    rows = tx.execute(select(claims.c.namespace, claims.c.name, claims.c.id, claims.c.beat))
    return [(row.namespace, row.name, row.id, row.beat) for row in rows]


def _save_row(tx: Tx, before: Lock, after: Lock) -> None:
    if not before.version:
        values = {"version": 1, "next_ticket": after.next_ticket}
        made = insert_absent(tx, locks, namespace=after.namespace, name=after.name, **values)
        if not made:
            raise StaleWrite
        return
    guard = (
        (locks.c.namespace == before.namespace)
        & (locks.c.name == before.name)
        & (locks.c.version == before.version)
    )
    if after.claims:
        values = {"version": before.version + 1, "next_ticket": after.next_ticket}
        done = tx.execute(update(locks).where(guard).values(values))
    else:
        done = tx.execute(delete(locks).where(guard))
    if done.rowcount != 1:
        raise StaleWrite


def _read(tx: Tx, query: Select[Any]) -> list[Lock]:
    rows = tx.execute(query).all()
    if not rows:
        return []
    wanted = select(claims).where(claims.c.namespace == rows[0].namespace)
    if len(rows) == 1:
        wanted = wanted.where(claims.c.name == rows[0].name)
    by_name: dict[str, list[Claim]] = {}
    for row in tx.execute(wanted.order_by(claims.c.ticket)):
        by_name.setdefault(row.name, []).append(_claim(row))
    return [
        Lock(
            namespace=row.namespace,
            name=row.name,
            version=row.version,
            next_ticket=row.next_ticket,
            claims=tuple(by_name.get(row.name, ())),
        )
        for row in rows
    ]


def _claim(row: Row[Any]) -> Claim:
    return Claim(
        id=row.id,
        ticket=row.ticket,
        slots=row.slots,
        holding=row.holding,
        leaving=row.leaving,
        beat=row.beat,
        asked_at=time_of(row.asked_at),
        held_at=from_us(row.held_at),
        by=row.by,
        who=unpack(row.who, Who),
    )


def _values(lock: Lock, claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "namespace": lock.namespace,
        "name": lock.name,
        "ticket": claim.ticket,
        "slots": claim.slots,
        "holding": claim.holding,
        "leaving": claim.leaving,
        "beat": claim.beat,
        "asked_at": to_us(claim.asked_at),
        "held_at": to_us(claim.held_at),
        "by": plain(claim.by, 64),
        "who": pack(msgspec.structs.replace(claim.who, user=plain(claim.who.user, 64))),
    }
