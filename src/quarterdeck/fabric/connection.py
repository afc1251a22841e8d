"""One connection to the fabric, as a link uses it: nats-py's (nats/client.py) or one in memory.

A connection only lives and dies: `lost` is called once when it is over for whatever reason, and
the link makes the next one. Sending is a plain call; received messages go straight to handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from quarterdeck.errors import Denied, Invalid, Unavailable

RawHandler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""subject, reply, data, header block (or None)"""

ZOMBIE = "zombie"
ROOM = 2 << 20
"""Bytes that may wait to leave before a publisher is made to wait."""


def text_of(subject: bytes) -> str:
    """A received subject as text. The fabric lets any bytes through that are no space, so what is
    no UTF-8 must be readable too: it matches no subject of ours."""
    return subject.decode(errors="replace")


class Connection(Protocol):
    """`lost_reason` is None while it stands; `on_lost` is called when it ends."""

    lost_reason: str | None
    on_lost: dict[Callable[[], None], None]

    @property
    def max_payload(self) -> int: ...

    @property
    def unsent(self) -> int:
        """Bytes that have not left yet."""
        ...

    async def open(self, url: str) -> None:
        """Connect or raise `Unavailable`/`Denied`; disposes of itself when it raises."""
        ...

    async def dispose(self) -> None:
        """Cut the connection at once. Never hangs on the peer."""
        ...

    def over(self, reason: str) -> None:
        """Declare the connection lost, once; `dispose` cuts it."""
        ...

    def post(
        self, subject: str, data: bytes | bytearray, reply: str = "", headers: bytes = b""
    ) -> None:
        """Queue one message."""
        ...

    def attach(self, subject: str, handler: RawHandler, queue: str = "") -> int:
        """Subscribe; the answer is the id for `detach`."""
        ...

    def detach(self, sid: int) -> None: ...

    def retire(self, sid: int, last: RawHandler) -> None:
        """Unsubscribe; what is still on its way goes to `last`."""
        ...

    async def room(self) -> None:
        """Wait while more than `ROOM` bytes have not left."""
        ...

    async def barrier(self, timeout_s: float) -> bool:
        """Whether the fabric has worked on everything sent before; False when lost or late."""
        ...


Connect = Callable[[Callable[[str], None], Callable[[str], None]], Connection]
"""Makes a connection, not yet open, from `lost(reason)`, called at most once, and
`complain(text)`, for refused subjects and for handlers that raise."""


def is_websocket(url: str) -> bool:
    """Whether the fabric is reached inside a WebSocket there."""
    return url.startswith(("ws:", "wss:"))


async def in_time(pong: asyncio.Future[bool], timeout_s: float) -> bool:
    """What a ping was answered; False when nothing came in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            return await pong
    return False


def not_admitted(url: str, name: str) -> Denied:
    return Denied(
        "fabric_login",
        f"The fabric at {url} does not admit {name!r}: its login is unknown, expired or "
        "revoked. Enrol it again.",
    )


def not_reached(url: str, why: str) -> Unavailable:
    return Unavailable(
        "fabric_unreachable",
        f"The fabric at {url} cannot be reached ({why}): check that it runs and that the "
        "address is right.",
    )


def check_subject(subject: str) -> None:
    """Raises `Invalid` for what would break the line protocol: empty, spaces, control bytes."""
    if not subject or not subject.isprintable() or " " in subject:
        raise Invalid("bad_subject", f"{subject!r} is not a subject.")
