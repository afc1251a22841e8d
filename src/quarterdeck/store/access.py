"""Tokens: only a hash of their secret is kept."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, delete, or_, select, update

from quarterdeck.core.access import EVERY, HOME, check_namespace, covers, parse
from quarterdeck.errors import Denied, NotFound
from quarterdeck.store import statements as sql
from quarterdeck.store.base import Tx
from quarterdeck.store.rows import from_us, insert_absent, parts, time_of, to_us
from quarterdeck.store.tables import tokens


class Principal(msgspec.Struct, frozen=True):
    """Who a request comes from: a token of some kind, in a namespace (`*`: in all of them), with a
    scope: a glob of the names of traces that it is for, or empty."""

    id: str
    kind: str
    namespace: str
    scope: str = ""

    @property
    def home(self) -> str:
        """The namespace that it acts in when nobody says which."""
        return HOME if self.namespace == EVERY else self.namespace

    def sees(self, namespace: str) -> bool:
        """Whether what is in a namespace is there for it."""
        return self.namespace in (EVERY, namespace)

    def covers(self, name: str) -> bool:
        """Whether its scope has room for the name of a trace."""
        return covers(self.scope, name)

    def at(self, namespace: str | None) -> Principal:
        """It in one namespace: the one that was asked for, else its home. Raises Invalid for what
        is none, and Denied for one that is not its own."""
        wanted = self.home if namespace is None else check_namespace(namespace)
        if not self.sees(wanted):
            raise Denied(
                "wrong_namespace",
                f"This token is for namespace {self.namespace}: leave `namespace` out, or use a "
                f"token for {wanted}.",
            )
        return msgspec.structs.replace(self, namespace=wanted)

    def within(self, namespace: str | None) -> Principal:
        """It in the namespace that was asked for, or in all that it sees. Raises as `at`."""
        return self if namespace is None else self.at(namespace)


class KeptToken(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a token, fit to be shown. `uses` is how many nodes may join with it (None:
    any number), `used` how many did; `approve` is `auto`, or `manual`: they wait for approval.
    `minted` ones stand in the URL of a trace that a server told its sender."""

    id: str
    kind: str
    namespace: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    approve: str = "auto"
    uses: int | None = None
    used: int = 0
    scope: str = ""
    last_used: datetime | None = None
    minted: bool = False


def register(
    tx: Tx,
    token: str,
    namespace: str,
    now: datetime,
    expires_at: datetime | None = None,
    *,
    approve: str = "auto",
    uses: int | None = None,
    scope: str = "",
    minted: bool = False,
) -> None:
    """Keep the hash of a token; one that is known already stays as it is."""
    found = parse(token)
    if found is None:
        raise ValueError("not a token of ours")
    insert_absent(
        tx,
        tokens,
        id=found.id,
        kind=found.kind,
        namespace=namespace,
        secret_hash=found.secret_hash,
        created_at=to_us(now),
        expires_at=to_us(expires_at),
        approve=approve,
        uses=uses,
        scope=scope,
        minted=minted,
    )


def take_over(tx: Tx, text: str, now: datetime) -> None:
    """Keep the hash of a token that was laid down in a file: it is for every namespace, also where
    an earlier release kept it for one. Raises ValueError for what is no token."""
    register(tx, text, EVERY, now)
    found = parse(text)
    if found is not None:
        tx.execute(
            update(tokens)
            .where(tokens.c.id == found.id, tokens.c.namespace != EVERY)
            .values(namespace=EVERY)
        )


def every(tx: Tx, namespace: str = EVERY, *, minted: bool = False) -> list[KeptToken]:
    """All tokens of a namespace, also those that count no more, oldest first; those in the URLs of
    traces only when they are asked for."""
    query = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
    if namespace != EVERY:
        query = query.where(tokens.c.namespace == namespace)
    if not minted:
        query = query.where(~tokens.c.minted)
    return [_kept(row) for row in tx.execute(query)]


def get(tx: Tx, token_id: str, namespace: str = EVERY) -> KeptToken:
    """Raises NotFound, also for one of another namespace."""
    row = tx.execute(select(tokens).where(tokens.c.id == token_id)).first()
    if row is None or namespace not in (EVERY, row.namespace):
        raise NotFound(
            "token_not_found", f"There is no token {token_id!r}; `qd token list` lists them."
        )
    return _kept(row)


def revoke(tx: Tx, token_id: str, now: datetime, namespace: str = EVERY) -> KeptToken:
    """Void a token from now on; a repeat leaves the first time. Raises NotFound."""
    get(tx, token_id, namespace)
    tx.execute(
        update(tokens)
        .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
        .values(revoked_at=to_us(now))
    )
    return get(tx, token_id)


def mark_used(tx: Tx, uses: Mapping[str, datetime]) -> None:
    """Keep when tokens were used last; what another server wrote of a later use stays."""
    rows = [{"b_id": id, "b_at": to_us(at)} for id, at in sorted(uses.items())]
    tx.execute(sql.TOKEN_USED, rows)


def forget_minted(tx: Tx, before: datetime) -> None:
    """Delete tokens in URLs of traces that ended before a time."""
    tx.execute(delete(tokens).where(tokens.c.minted, tokens.c.expires_at < to_us(before)))


def use(tx: Tx, token_id: str, now: datetime) -> None:
    """Count one more node that joins with a token. Raises Denied when that was the last one
    before; the unit of work leaves nothing behind then."""
    statement = (
        update(tokens)
        .where(tokens.c.id == token_id, or_(tokens.c.uses.is_(None), tokens.c.used < tokens.c.uses))
        .values(used=tokens.c.used + 1, last_used=to_us(now))
    )
    if tx.execute(statement).rowcount != 1:
        raise Denied(
            "token_used_up",
            "As many nodes as it admits have joined with this token: ask for a new one.",
        )


def counting(tx: Tx, ids: Iterable[str], now: datetime) -> set[str]:
    """Those of these tokens that are neither revoked nor expired."""
    found: set[str] = set()
    for part in parts(sorted(ids)):
        rows = tx.execute(
            select(tokens.c.id, tokens.c.expires_at).where(
                tokens.c.id.in_(part), tokens.c.revoked_at.is_(None)
            )
        )
        found |= {r.id for r in rows if r.expires_at is None or time_of(r.expires_at) > now}
    return found


def _kept(row: Row[Any]) -> KeptToken:
    return KeptToken(
        id=row.id,
        kind=row.kind,
        namespace=row.namespace,
        created_at=time_of(row.created_at),
        expires_at=from_us(row.expires_at),
        revoked_at=from_us(row.revoked_at),
        approve=row.approve,
        uses=row.uses,
        used=row.used,
        scope=row.scope,
        last_used=from_us(row.last_used),
        minted=row.minted,
    )


def principal(tx: Tx, token: str, now: datetime) -> Principal:
    """Who a token stands for. Raises Denied for what is malformed, unknown, expired or revoked."""
    found = parse(token)
    if found is not None:
        row = tx.execute(sql.TOKEN, {"id": found.id}).first()
        if row is not None and hmac.compare_digest(row.secret_hash, found.secret_hash):
            if row.revoked_at is not None:
                raise Denied("token_revoked", "This token was revoked: ask for a new one.")
            if row.expires_at is not None and row.expires_at <= (to_us(now) or 0):
                raise Denied("token_expired", "This token has expired: ask for a new one.")
            return Principal(row.id, row.kind, row.namespace, row.scope)
    raise Denied(
        "bad_token", "The token is not valid here: check --token, QD_TOKEN or the data directory."
    )
