"""Tokens as a service: make, list, revoke. The text of a token is told once, to who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec

from quarterdeck.core.access import (
    EVERY,
    FLEET_KINDS,
    KINDS,
    SCOPED_KINDS,
    SECRET_BYTES,
    check_namespace,
    check_scope,
    spell,
)
from quarterdeck.errors import Denied, Invalid
from quarterdeck.service import Clock, entropy
from quarterdeck.store import access as access_store
from quarterdeck.store.access import KeptToken, Principal
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import Telemetry, TokenMade, TokenRevoked

AUTO, MANUAL = "auto", "manual"
MAX_USES = 1_000_000
MAX_EXPIRY_S = 10 * 366 * 86_400.0
MINTED_S = 86_400.0


class Minted(msgspec.Struct, frozen=True):
    """The text of a token that is made with something else: `write` (with the namespace and
    the name that it is for) belongs into the transaction of that, `told` is called after its
    commit."""

    text: str
    write: Callable[[Tx, str, str], None]
    told: Callable[[], None]


class Tokens:
    """What the API calls. `fingerprint` is of the certificate that holders are to pin, or empty."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        telemetry: Telemetry,
        new_id: Callable[[], str],
        fingerprint: Callable[[], str],
        revoked: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._new_id = new_id
        self._fingerprint = fingerprint
        self._revoked = revoked

    async def create(
        self,
        kind: str,
        *,
        by: Principal,
        expires_s: float | None = None,
        approve: str = AUTO,
        uses: int | None = None,
        namespace: str | None = None,
        scope: str = "",
    ) -> tuple[KeptToken, str]:
        """A new token and its text, of a namespace (`*` for all of them) or the home of who asks.
        `uses` and `approve` limit a join token: how many nodes it admits, and whether they wait for
        approval. `scope` limits a send or watch token to some names. Raises Invalid and Denied.
        """
        if kind not in KINDS:
            raise Invalid("token_kind", f"{kind!r} is no kind of token: say {' or '.join(KINDS)}.")
        if expires_s is not None and not 1 <= expires_s <= MAX_EXPIRY_S:
            raise Invalid(
                "token_expiry",
                "A token can be valid for 1 second to 10 years: give another `expires`.",
            )
        if kind != "join" and (uses is not None or approve != AUTO):
            raise Invalid(
                "token_kind",
                "Only a join token has `uses` and `approve`: leave them out for a token of kind "
                f"{kind}, or make a join token.",
            )
        if approve not in (AUTO, MANUAL):
            raise Invalid("token_approve", f"{approve!r} is no way to approve: say auto or manual.")
        if uses is not None and not 1 <= uses <= MAX_USES:
            raise Invalid(
                "token_uses",
                f"A token can be used 1 to {MAX_USES} times, not {uses}: give another number, or "
                "none.",
            )
        where, scope = _where(kind, namespace, by), _checked_scope(kind, scope)
        now = self._clock.now()
        expires_at = None if expires_s is None else now + timedelta(seconds=expires_s)
        id, secret = self._new_id(), entropy(SECRET_BYTES)
        text = spell(kind, id, secret, fingerprint=self._fingerprint())

        def write(tx: Tx) -> KeptToken:
            access_store.register(
                tx, text, where, now, expires_at, approve=approve, uses=uses, scope=scope
            )
            return access_store.get(tx, id)

        kept = await self._database.write(write)
        self._telemetry.emit(TokenMade(token=id, kind=kind, by=by.id))
        return kept, text

    def mint_watch(self, *, by: Principal, expires_s: float = MINTED_S) -> Minted:
        """A token that may watch the traces of one name, for the URL that a sender is told. It is
        listed only on demand, and deleted a day after its end."""
        now = self._clock.now()
        id, secret = self._new_id(), entropy(SECRET_BYTES)
        text = spell("watch", id, secret)
        until = now + timedelta(seconds=expires_s)

        def write(tx: Tx, namespace: str, name: str) -> None:
            access_store.register(tx, text, namespace, now, until, scope=name, minted=True)

        def told() -> None:
            self._telemetry.emit(TokenMade(token=id, kind="watch", by=by.id))

        return Minted(text=text, write=write, told=told)

    async def every(self, by: Principal, *, minted: bool = False) -> list[KeptToken]:
        """All tokens of the namespaces that `by` sees, oldest first."""
        read = partial(access_store.every, namespace=by.namespace, minted=minted)
        return await self._database.read(read)

    async def revoke(self, token_id: str, *, by: Principal) -> KeptToken:
        """Void a token. What was let in by it stays in. Raises NotFound."""
        revoke = partial(
            access_store.revoke,
            token_id=token_id,
            now=self._clock.now(),
            namespace=by.namespace,
        )
        kept = await self._database.write(revoke)
        self._revoked()
        self._telemetry.emit(TokenRevoked(token=token_id, by=by.id))
        return kept


def _where(kind: str, namespace: str | None, by: Principal) -> str:
    """The namespace of a token that somebody makes. Nodes belong to all of them, so only who acts
    in all of them lets machines in."""
    if kind in FLEET_KINDS and by.namespace != EVERY:
        raise Denied(
            "wrong_namespace",
            f"A token of kind {kind} lets machines in that every namespace shares, and yours is "
            f"for namespace {by.namespace} only: ask somebody with a token for `*`.",
        )
    if namespace is None:
        return EVERY if kind in FLEET_KINDS else by.home
    where = namespace if namespace == EVERY else check_namespace(namespace)
    if not by.sees(where):
        raise Denied(
            "wrong_namespace",
            f"Your token is for namespace {by.namespace}, so it makes none for {where}: leave "
            "`namespace` out, or use another token.",
        )
    return where


def _checked_scope(kind: str, scope: str) -> str:
    if not scope:
        return ""
    if kind not in SCOPED_KINDS:
        raise Invalid(
            "token_kind",
            f"Only tokens of kind {' and '.join(SCOPED_KINDS)} have a scope: leave it out for one "
            f"of kind {kind}.",
        )
    return check_scope(scope)


async def take_over(database: Database, path: Path, now: datetime) -> None:
    """Register the tokens that `qd up` (or an operator) laid down in a file, one a line. They are
    for every namespace.

    Raises Invalid for a line that is none, and for a file that can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            "tokens",
            f"The file of first tokens {path} can't be read ({error}): see that it is text and "
            "that the server's user owns it.",
        ) from error

    def register(tx: Tx) -> None:
        for line in lines:
            try:
                access_store.take_over(tx, line, now)
            except ValueError as error:
                raise Invalid(
                    "tokens",
                    f"{path} holds a line that is no token, so the server does not start: take it "
                    "out, or put a token there as `qd token create` prints it.",
                ) from error

    await database.write(register)
