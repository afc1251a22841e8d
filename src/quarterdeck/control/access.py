"""Tokens as a service: make, list, revoke. The text of a token is told once, to who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from quarterdeck.core.access import SECRET_BYTES, spell
from quarterdeck.errors import Invalid
from quarterdeck.service import Clock, entropy
from quarterdeck.store import access as access_store
from quarterdeck.store.access import KeptToken, Principal
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import Telemetry, TokenMade, TokenRevoked

KINDS = ("api", "join", "leaf")
AUTO, MANUAL = "auto", "manual"
MAX_USES = 1_000_000
MAX_EXPIRY_S = 10 * 366 * 86_400.0


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
    ) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._new_id = new_id
        self._fingerprint = fingerprint

    async def create(
        self,
        kind: str,
        *,
        by: Principal,
        expires_s: float | None = None,
        approve: str = AUTO,
        uses: int | None = None,
    ) -> tuple[KeptToken, str]:
        """A new token of the namespace of who asks, and its text. `uses` and `approve` limit a
        join token: how many nodes it admits, and whether they wait for approval. Raises Invalid.
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
        now = self._clock.now()
        expires_at = None if expires_s is None else now + timedelta(seconds=expires_s)
        id, secret = self._new_id(), entropy(SECRET_BYTES)
        text = spell(kind, id, secret, fingerprint=self._fingerprint())

        def write(tx: Tx) -> KeptToken:
            access_store.register(
                tx, text, by.namespace, now, expires_at, approve=approve, uses=uses
            )
            return access_store.get(tx, id)

        kept = await self._database.write(write)
        self._telemetry.emit(TokenMade(token=id, kind=kind, by=by.id))
        return kept, text

    async def every(self) -> list[KeptToken]:
        """All tokens, oldest first."""
        return await self._database.read(access_store.every)

    async def revoke(self, token_id: str, *, by: Principal) -> KeptToken:
        """Void a token. What was let in by it stays in. Raises NotFound."""
        now = self._clock.now()
        kept = await self._database.write(partial(access_store.revoke, token_id=token_id, now=now))
        self._telemetry.emit(TokenRevoked(token=token_id, by=by.id))
        return kept


async def take_over(database: Database, path: Path, now: datetime) -> None:
    """Register the tokens that `qd up` (or an operator) laid down in a file, one a line.

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
                access_store.register(tx, line, "default", now)
            except ValueError as error:
                raise Invalid(
                    "tokens",
                    f"{path} holds a line that is no token, so the server does not start: take it "
                    "out, or put a token there as `qd token create` prints it.",
                ) from error

    await database.write(register)
