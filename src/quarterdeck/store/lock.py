"""Locks: the claims to a name change together, under the version of its row; beats change alone.

The row of a lock is written with every change of its claims, so two servers that change one lock
at once meet there, and one of them decides again. Only such a change reads the whole lock: whoever
beats, looks or is shown something reads what it needs, as a thousand may wait and each beats.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Row, Select, bindparam, case, delete, func, select, update

from quarterdeck.core.lock import Claim, Glance, Lock, Standing, Who
from quarterdeck.errors import Conflict
from quarterdeck.store.base import StaleWrite, Tx
from quarterdeck.store.rows import from_us, insert_absent, pack, plain, time_of, to_us
from quarterdeck.store.tables import claims, locks

WHO = msgspec.msgpack.Decoder(Who)

OF_ONE = (claims.c.namespace == bindparam("namespace"), claims.c.name == bindparam("name"))
LOCK = select(locks).where(
    locks.c.namespace == bindparam("namespace"), locks.c.name == bindparam("name")
)
CLAIMS = select(claims).where(*OF_ONE).order_by(claims.c.ticket)

before_it = claims.alias("before_it")
PLACES_UP_TO_IT = (
    select(func.count())
    .select_from(before_it)
    .where(
        before_it.c.namespace == claims.c.namespace,
        before_it.c.name == claims.c.name,
        before_it.c.ticket <= claims.c.ticket,
        ~before_it.c.holding,
    )
    .correlate(claims)
    .scalar_subquery()
)
STANDING = select(
    claims.c.holding,
    claims.c.leaving,
    case((claims.c.holding, 0), else_=PLACES_UP_TO_IT).label("position"),
).where(*OF_ONE, claims.c.id == bindparam("id"))

BEAT = (
    update(claims)
    .where(
        claims.c.id == bindparam("b_id"),
        claims.c.namespace == bindparam("b_namespace"),
        claims.c.name == bindparam("b_name"),
        claims.c.by == bindparam("b_by"),
    )
    .values(beat=claims.c.beat + 1)
)


def load(tx: Tx, namespace: str, name: str) -> Lock:
    """A lock with all its claims; one that nobody claims is empty."""
    which = {"namespace": namespace, "name": name}
    row = tx.execute(LOCK, which).first()
    if row is None:
        return Lock(namespace=namespace, name=name)
    return Lock(
        namespace=namespace,
        name=name,
        version=row.version,
        next_ticket=row.next_ticket,
        claims=tuple(_claim(claim) for claim in tx.execute(CLAIMS, which)),
    )


def glances(
    tx: Tx, namespace: str, name: str | None = None, *, holders: int, waiters: int
) -> list[Glance]:
    """The locks that somebody claims, or the one with a name, with so many claims of each."""
    which = {"namespace": namespace} if name is None else {"namespace": namespace, "name": name}
    numbers = tx.execute(_numbers(one=name is not None), which).all()
    most = {"holders": holders, "waiters": waiters}
    first: dict[str, list[Claim]] = {}
    for row in tx.execute(_first(one=name is not None), which | most):
        first.setdefault(row.name, []).append(_claim(row))
    return [_glance(row, first.get(row.name, [])) for row in numbers]


def standing(tx: Tx, namespace: str, name: str, id: str) -> Standing | None:
    """Where one claim stands; None when it is over."""
    row = tx.execute(STANDING, {"namespace": namespace, "name": name, "id": id}).first()
    if row is None:
        return None
    return Standing(holding=row.holding, leaving=row.leaving, position=row.position)


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


def beat(tx: Tx, namespace: str, name: str, id: str, *, by: str) -> bool:
    """Write the next beat of a claim; False when there is none with this id of this token."""
    which = {"b_namespace": namespace, "b_name": name, "b_id": id, "b_by": by}
    return bool(tx.execute(BEAT, which).rowcount)


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


def _glance(row: Row[Any], first: list[Claim]) -> Glance:
    holders = tuple(claim for claim in first if claim.holding)
    waiters = tuple(claim for claim in first if not claim.holding)
    return Glance(
        name=row.name,
        slots=row.slots or min((claim.slots for claim in waiters[:1]), default=0),
        holding=row.holding,
        waiting=row.claims - row.holding,
        holders=holders,
        waiters=waiters,
    )


@cache
def _numbers(*, one: bool) -> Select[Any]:
    """How many claims each lock has, and what its holders allow."""
    holding = func.count(case((claims.c.holding, 1)))
    slots = func.min(case((claims.c.holding, claims.c.slots)))
    return (
        select(
            claims.c.name,
            func.count().label("claims"),
            holding.label("holding"),
            slots.label("slots"),
        )
        .where(*(OF_ONE if one else OF_ONE[:1]))
        .group_by(claims.c.name)
        .order_by(claims.c.name)
    )


@cache
def _first(*, one: bool) -> Select[Any]:
    """The first `holders` and `waiters` of each lock, by ticket."""
    place = func.row_number().over(
        partition_by=(claims.c.name, claims.c.holding), order_by=claims.c.ticket
    )
    keys = (
        select(claims.c.id, claims.c.holding, place.label("place"))
        .where(*(OF_ONE if one else OF_ONE[:1]))
        .subquery()
    )
    most = case((keys.c.holding, bindparam("holders")), else_=bindparam("waiters"))
    return (
        select(claims)
        .join(keys, keys.c.id == claims.c.id)
        .where(keys.c.place <= most)
        .order_by(claims.c.name, claims.c.ticket)
    )


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
        who=WHO.decode(row.who),
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
