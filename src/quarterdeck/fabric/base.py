"""The seam to the fabric: what every implementation (NATS, memory) must do.

Subjects are dotted tokens (wire/subjects.py makes them). Two kinds of sending exist:

* `publish`: at most once, to whoever listens now. Nothing is kept.
* `store`: the message goes into a JetStream stream that covers the subject. The returned future
  resolves with `Stored` when the fabric has it on disk, or `Refused` when the stream will not take
  it (full). While the answer is missing (link down, restart) the fabric sends again, so a message
  may arrive twice: `message_id` deduplicates inside the stream, offsets do it for output.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One message as received. `reply` is the subject an answer goes to, or empty."""

    subject: str
    data: bytes
    reply: str = ""


class Stored(msgspec.Struct, frozen=True):
    """The fabric keeps the message under `sequence` of its stream."""

    sequence: int


class Refused(msgspec.Struct, frozen=True):
    """The stream does not take the message: `code` is the JetStream error code (10077: full)."""

    code: int
    text: str


class Kept(msgspec.Struct, frozen=True):
    """One message read back from a stream."""

    sequence: int
    subject: str
    data: bytes


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the streams may hold; `replicas` 3 in a cluster."""

    ev_max_bytes: int = 1 << 30
    ev_message_bytes: int = 256 << 10  # a fact is far shorter; a server takes many at once
    out_max_bytes: int = 2 << 30
    out_compression: str = "none"  # or "s2"
    replicas: int = 1
    duplicate_window_s: float = 120.0
    ack_wait_s: float = 30.0
    max_ack_pending: int = 20_000


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream holds now, of what it may hold."""

    stream: str
    messages: int
    bytes: int
    max_bytes: int


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A JetStream stream in memory that holds the latest of what comes on `subject`: what is older
    than `max_age_s`, or does not fit into `max_bytes`, leaves it. A restart of the fabric takes it
    all, the stream itself included."""

    stream: str
    subject: str
    max_bytes: int
    max_age_s: float
    replicas: int = 1


class Delivery(Protocol):
    """One message of a work queue; unacknowledged ones come again."""

    @property
    def subject(self) -> str: ...

    @property
    def data(self) -> bytes: ...

    def ack(self) -> None:
        """Tell the stream to forget it; call after the commit of what it caused. Never raises."""
        ...


Handler = Callable[[Message], None]


class Subscription(Protocol):
    """A live subscription; `close` may be called twice."""

    async def close(self) -> None: ...


class Fabric(Protocol):
    """A connection of one principal (node, server) to the fabric.

    `start` returns when the first connection stands, or raises `errors.Unavailable`/`Denied` with
    a sentence. After that the link is mended for ever in the background, subscriptions included.
    """

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Close the link; pending `store` futures are cancelled. May be called twice."""
        ...

    @property
    def connected(self) -> bool: ...

    def on_connect(self, callback: Callable[[], None]) -> None:
        """Call back in the event loop after each (re)connection, subscriptions already standing."""
        ...

    async def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Send to present listeners. Raises `Unavailable` while the link is down, and `Denied` once
        the fabric has refused the subject; a first refusal comes too late and is only reported."""
        ...

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call `handler` for each message: a plain function, called as messages are read, so it
        must be quick and bound what it keeps."""
        ...

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """One answer. Raises `Unavailable` with code `no_responders` (at once), `timeout`, or
        `disconnected`."""
        ...

    def store(
        self, subject: str, data: bytes | bytearray, *, message_id: str = ""
    ) -> asyncio.Future[Stored | Refused]:
        """Send to the stream, again and again until it answers. Cancel the future to give up.
        `data` is not copied: leave it as it is from now on."""
        ...

    def replay(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Kept]:
        """The messages of one subject (wildcards allowed) that the stream holds now, oldest first,
        from sequence `after` + 1. Ends at the present end. Raises `Unavailable`."""
        ...

    def consume(self, stream: str, consumer: str, *, batch: int) -> AsyncIterator[list[Delivery]]:
        """Endless batches (1..batch) from a durable pull consumer; goes on across reconnects."""
        ...

    async def ensure_streams(self, limits: Limits) -> None:
        """Make the streams and consumers that are absent, update what differs. Any server may
        call it at any time. Raises `Unavailable`, and `Invalid` for refused limits."""
        ...

    async def purge(self, stream: str, subject: str) -> None:
        """Delete the messages of one subject from the stream. Raises `Unavailable`."""
        ...


Signer = Callable[[bytes], bytes]
JwtSource = Callable[[], Awaitable[str]]
