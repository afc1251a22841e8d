"""Leaf nodes of the fabric: a token of kind `leaf` makes a key the fabric of a site.

Nothing of a leaf is recorded: who has the token gets a pass for two days and asks again, every few
seconds, which is also how it hears of removals: an answer waits until there is one, or for
`WAIT_S`. A revoked token ends it within two days.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from quarterdeck.control.enrol import hold_off
from quarterdeck.control.parts import Leaves
from quarterdeck.core.brake import Brake
from quarterdeck.errors import Denied, Invalid, NotFound
from quarterdeck.fabric.identity import verify
from quarterdeck.service import Clock
from quarterdeck.store import access as access_store
from quarterdeck.store.base import Database
from quarterdeck.wire.leaf import LeafCredentials, LeafEnrolment, leaf_part, seen_of

LEAF_TTL_S = 2 * 86_400
WAIT_S = 5.0
LOOK_AGAIN_S = 0.2


class LeafEnrolments:
    """What the API calls."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        leaves: Leaves | None,
        urls: tuple[str, ...],
        brake: Brake,
        draining: asyncio.Event,
    ) -> None:
        self._database = database
        self._clock = clock
        self._leaves = leaves
        self._urls = urls
        self._brake = brake
        self._draining = draining

    async def enrol(self, request: LeafEnrolment, address: str = "") -> LeafCredentials:
        """A pass, and what a leaf must know. Raises Invalid, Denied, NotFound, and TooOften for an
        `address` that failed often."""
        hold_off(self._brake, address, self._clock.monotonic())
        try:
            return await self._enrol(request)
        except Denied:
            self._brake.failed(address, self._clock.monotonic())
            raise

    async def _enrol(self, request: LeafEnrolment) -> LeafCredentials:
        now = self._clock.now()
        part = leaf_part(request.public_key, request.token, request.tls_key)
        if not verify(request.public_key, part, request.signature):
            raise Denied(
                "bad_signature",
                "The request is not signed by the key it names, so the leaf node gets no pass: "
                "start `qd fabric --leaf-of` of this version with its own --data.",
            )
        principal = await self._database.read(
            lambda tx: access_store.principal(tx, request.token, now)
        )
        if principal.kind != "leaf":
            raise Denied(
                "wrong_token",
                f"This token, of kind {principal.kind!r}, makes no leaf nodes: make one that does "
                "with `qd token create --kind leaf`.",
            )
        if self._leaves is None or not self._urls:
            raise NotFound(
                "no_websocket",
                "This server knows no WebSocket of its fabric, which leaf nodes come by: give it "
                "`websocket_url`.",
            )
        await self._until_news(self._leaves, request.seen)
        return self._given(self._leaves, request, now)

    async def _until_news(self, leaves: Leaves, seen: str) -> None:
        """Until a leaf is to admit others than those it has seen; not for ever."""
        until = self._clock.monotonic() + WAIT_S
        while seen == seen_of(leaves.accounts()["account_jwt"]):
            if self._clock.monotonic() >= until or self._draining.is_set():
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    def _given(self, leaves: Leaves, request: LeafEnrolment, now: datetime) -> LeafCredentials:
        name = "l" + request.public_key[1:16].lower()
        issued = int(now.timestamp())
        certificate = ""
        if request.tls_key:
            certificate = _certified(leaves.certify, request, now)
        return LeafCredentials(
            name=name,
            jwt=leaves.mint(name, request.public_key, issued, LEAF_TTL_S),
            expires_at=issued + LEAF_TTL_S,
            websocket_urls=self._urls,
            certificate=certificate,
            **leaves.accounts(),
        )


def _certified(
    certify: Callable[[str, tuple[str, ...], datetime], str], request: LeafEnrolment, now: datetime
) -> str:
    try:
        return certify(request.tls_key, request.names, now)
    except ValueError as error:
        raise Invalid("tls_key", f"The key or a name can't be certified: {error}.") from error
