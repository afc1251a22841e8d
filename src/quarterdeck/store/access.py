"""Tokens: only a hash of their secret is kept."""

from __future__ import annotations

import hmac
from datetime import datetime

import msgspec
from sqlalchemy import insert, select

from quarterdeck.core.access import parse
from quarterdeck.errors import Denied
from quarterdeck.store.base import Tx
from quarterdeck.store.rows import to_us
from quarterdeck.store.tables import tokens


class Principal(msgspec.Struct, frozen=True):
    """Who a request comes from: a token of some kind, in a namespace."""

    id: str
    kind: str
    namespace: str


def register(tx: Tx, token: str, namespace: str, now: datetime) -> None:
    """Keep the hash of a token; one that is known already stays as it is."""
    found = parse(token)
    if found is None:
        raise ValueError("not a token of ours")
    if tx.execute(select(tokens.c.id).where(tokens.c.id == found.id)).first() is None:
        tx.execute(
            insert(tokens).values(
                id=found.id,
                kind=found.kind,
                namespace=namespace,
                secret_hash=found.secret_hash,
                created_at=to_us(now),
            )
        )


def principal(tx: Tx, token: str, now: datetime) -> Principal:
    """Who a token stands for. Raises Denied for what is malformed, unknown, expired or revoked."""
    found = parse(token)
    if found is not None:
        row = tx.execute(select(tokens).where(tokens.c.id == found.id)).first()
        if row is not None and hmac.compare_digest(row.secret_hash, found.secret_hash):
            if row.revoked_at is not None:
                raise Denied("token_revoked", "This token was revoked: ask for a new one.")
            if row.expires_at is not None and row.expires_at <= (to_us(now) or 0):
                raise Denied("token_expired", "This token has expired: ask for a new one.")
            return Principal(row.id, row.kind, row.namespace)
    raise Denied(
        "bad_token", "The token is not valid here: check --token, QD_TOKEN or the data directory."
    )
