"""The fabric protocol over one self-mending link; `NatsFabric` over a link to nats-server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from quarterdeck.errors import Denied, Invalid, NotFound, Unavailable
from quarterdeck.fabric import topology
from quarterdeck.fabric.base import (
    Delivery,
    Handler,
    JwtSource,
    Kept,
    Limits,
    Message,
    Refused,
    Signer,
    Stored,
)
from quarterdeck.fabric.connection import Connect, Connection, check_subject, text_of
from quarterdeck.fabric.identity import check_id
from quarterdeck.fabric.nats.client import Client, Login, Proxies, Trust
from quarterdeck.fabric.nats.link import Link, Options, Spawn, Standing
from quarterdeck.fabric.nats.outbox import Outbox
from quarterdeck.fabric.nats.streams import consume, replay, status_of
from quarterdeck.service import caught, entropy, jitter
from quarterdeck.wire import subjects

_REFUSED = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE
)
_REFUSED_KEPT = 1000


class _Refused:
    """The subjects that the fabric would not take messages for, in lower case; the latest ones."""

    def __init__(self) -> None:
        self._subjects: dict[str, None] = {}

    def add(self, subject: str) -> None:
        # Answers are allowed one by one, so the next one may be.
        if not subject.startswith("_inbox"):
            self._subjects[subject] = None
            if len(self._subjects) > _REFUSED_KEPT:
                del self._subjects[next(iter(self._subjects))]

    def has(self, subject: str) -> bool:
        return bool(self._subjects) and subject.lower() in self._subjects

    def clear(self) -> None:
        self._subjects.clear()


def unguessable() -> str:
    """A token for subjects on which answers are awaited."""
    return entropy(8).hex()


class _Subscription:
    def __init__(self, link: Link, standing: Standing) -> None:
        self._link = link
        self._standing = standing

    async def close(self) -> None:
        self._link.remove(self._standing)


class LinkedFabric:
    """One principal's fabric over whatever `connect` makes. `name` is its id: the login's name and
    the inbox's prefix.

    `spawn` starts background tasks and owns them; `stop` ends and awaits them. `on_error` gets
    sentences about refused subjects, lost links and failed attempts: it is called in the event loop
    and must be quick.
    """

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        *,
        connect: Connect,
        spawn: Spawn,
        on_error: Callable[[str], None] | None,
        random: Callable[[], float],
        options: Options,
        token: Callable[[], str] = unguessable,
    ) -> None:
        self._options = options
        self._on_error = on_error
        self._random = random
        # NATS does not check where an answer is sent to: who could guess the subject on which we
        # wait could answer in the name of others, or have JetStream answer there. So each has a
        # token of its own, which only who is asked gets to see.
        self._token = token
        self._inbox = subjects.inbox(check_id(name))
        self._asking = f"{self._inbox}.{token()}.q."
        acks = f"{self._inbox}.{token()}.a."
        self._answers: dict[bytes, tuple[str, asyncio.Future[tuple[bytes, int]]]] = {}
        self._on_connect: list[Callable[[], None]] = []
        self._refused: set[str] = set()
        self._refused_to_send = _Refused()
        self._outbox = Outbox(
            acks,
            random=random,
            ack_timeout_s=self._options.ack_timeout_s,
            window_messages=self._options.window_messages,
            window_bytes=self._options.window_bytes,
            complain=self._complain,
        )
        self._link = Link(
            urls,
            name,
            connect=connect,
            spawn=spawn,
            random=random,
            options=self._options,
            up=self._up,
            down=self._down,
            complain=self._complain,
        )
        self._link.add(Standing(f"{acks}*", self._outbox.answered, ""))
        self._link.add(Standing(f"{self._asking}*", self._answered, ""))

    async def start(self) -> None:
        await self._link.start()

    async def stop(self) -> None:
        await self._link.stop()
        self._outbox.close()

    @property
    def connected(self) -> bool:
        return self._link.client is not None

    def on_connect(self, callback: Callable[[], None]) -> None:
        self._on_connect.append(callback)

    def move(self, urls: Sequence[str]) -> None:
        """Dial these addresses from now on."""
        self._link.move(urls)

    def reconnect(self) -> None:
        """Drop the link and dial again at once: the new login of `jwt_source` counts from then."""
        self._link.reconnect()

    def _up(self, client: Connection) -> None:
        self._outbox.up(client)
        self._refused_to_send.clear()  # another login may have other rights
        for callback in list(self._on_connect):
            _, error = caught(callback)
            if error is not None:
                self._complain(f"a callback of the link raised {error!r}")

    def _down(self) -> None:
        self._outbox.down()
        for _, future in self._answers.values():
            if not future.done():
                future.set_exception(_link_down())
        self._answers.clear()

    def _complain(self, text: str) -> None:
        refusal = _REFUSED.search(text)
        if refusal is not None:
            # nats-py gives the subject in lower case.
            subject = refusal[2].lower()
            if refusal[1].lower() == "subscription":
                self._refused.add(subject)
            else:
                self._refused_to_send.add(subject)
                self._outbox.denied(subject)
                for asked, future in self._answers.values():
                    if asked.lower() == subject and not future.done():
                        future.set_exception(_no_right(asked))
        if self._on_error is not None:
            self._on_error(text)

    def _client(self, size: int = 0) -> Connection:
        client = self._link.client
        if client is None:
            raise _link_down()
        if size > client.max_payload:
            raise Invalid(
                "too_large",
                f"A message of {size} bytes exceeds the fabric's limit of {client.max_payload}.",
            )
        return client

    async def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        check_subject(subject)
        if reply:
            check_subject(reply)
        client = self._client(len(data))
        if self._refused_to_send.has(subject):
            raise _no_right(subject)
        client.post(subject, data, reply)
        await client.room()
        if client.lost_reason is not None:
            raise _link_down()

    async def subscribe(
        self,
        subject: str,
        handler: Handler,
        *,
        queue: str = "",
    ) -> _Subscription:
        """See `Fabric.subscribe`. Raises `Denied` when the fabric refuses the subject at once."""
        check_subject(subject)
        if queue:
            check_subject(queue)

        def received(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
            if not data and status_of(headers):
                return  # the server's own word, as "no responders" to a publish with reply
            handler(Message(text_of(subject), data, text_of(reply)))

        standing = Standing(subject, received, queue)
        self._refused.discard(subject.lower())
        self._link.add(standing)
        client = self._link.client
        if client is not None:
            try:
                await client.barrier(self._options.answer_timeout_s)
            except BaseException:
                self._link.remove(standing)
                raise
        if subject.lower() in self._refused:
            self._refused.discard(subject.lower())
            self._link.remove(standing)
            raise _no_right(subject)
        return _Subscription(self._link, standing)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        check_subject(subject)
        client = self._client(len(data))
        token = self._token()
        key = token.encode()
        future: asyncio.Future[tuple[bytes, int]] = asyncio.get_running_loop().create_future()
        self._answers[key] = (subject, future)
        try:
            client.post(subject, data, f"{self._asking}{token}")
            async with asyncio.timeout(timeout_s):
                answer, status = await future
        except TimeoutError as error:
            raise Unavailable(
                "timeout", f"Nobody answered on {subject} within {timeout_s:g} s."
            ) from error
        finally:
            self._answers.pop(key, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen, also when the caller was cancelled in that moment
        if status == 503:
            raise Unavailable("no_responders", f"Nobody listens on {subject} at present.")
        return answer

    def _answered(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes | None) -> None:
        _, future = self._answers.get(subject[len(self._asking) :], ("", None))
        if future is not None and not future.done():
            future.set_result((data, status_of(headers)))

    def store(
        self, subject: str, data: bytes | bytearray, *, message_id: str = ""
    ) -> asyncio.Future[Stored | Refused]:
        return self._outbox.store(subject, data, message_id)

    def replay(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Kept]:
        check_subject(subject)
        inbox = f"{self._inbox}.{self._token()}.r"
        timeout_s = self._options.answer_timeout_s
        return replay(self._link, inbox, stream, subject, after, timeout_s)

    def consume(self, stream: str, consumer: str, *, batch: int) -> AsyncIterator[list[Delivery]]:
        return consume(
            self._link,
            f"{self._inbox}.{self._token()}.c",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
            batch,
            most_bytes=self._options.pull_bytes,
            idle_heartbeat_s=self._options.idle_heartbeat_s,
            random=self._random,
            complain=self._complain,
        )

    async def ensure_streams(self, limits: Limits) -> None:
        await topology.ensure(self, limits)

    async def purge(self, stream: str, subject: str) -> None:
        check_subject(subject)
        data = await self.request(
            f"$JS.API.STREAM.PURGE.{stream}",
            msgspec.json.encode({"filter": subject}),
            timeout_s=self._options.answer_timeout_s,
        )
        error = msgspec.json.decode(data, type=dict[str, Any]).get("error")
        if error and error.get("code") == 404:
            raise NotFound("no_stream", f"The fabric has no JetStream stream {stream}.")
        if error:
            raise Unavailable(
                "purge_failed",
                f"JetStream stream {stream} was not purged: {error.get('description')}.",
            )


class NatsFabric(LinkedFabric):
    """The fabric over nats-server.

    `jwt_source` is asked for the login at each dial, `tls` for whom to trust, `proxies` for the way
    to WebSockets; `signer` signs the server's nonce with the key of that login.
    """

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        *,
        jwt_source: JwtSource,
        signer: Signer,
        spawn: Spawn,
        on_error: Callable[[str], None] | None = None,
        random: Callable[[], float] = jitter,
        options: Options | None = None,
        tls: Trust | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        options = options or Options()
        login = Login(
            name=name,
            jwt_source=jwt_source,
            signer=signer,
            timeout_s=options.connect_timeout_s,
            ping_interval_s=options.ping_interval_s,
            pings_outstanding=options.pings_outstanding,
            tls=tls,
            proxies=proxies,
        )
        super().__init__(
            urls,
            name,
            connect=lambda lost, complain: Client(login, lost, complain),
            spawn=spawn,
            on_error=on_error,
            random=random,
            options=options,
        )


def _link_down() -> Unavailable:
    return Unavailable(
        "disconnected",
        "The link to the fabric is down; it is being mended in the background.",
    )


def _no_right(subject: str) -> Denied:
    return Denied(
        "fabric_subject",
        f"This login has no right to {subject} on the fabric: it may have been removed, or speak "
        "for another node.",
    )
