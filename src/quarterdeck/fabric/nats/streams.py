"""Reading JetStream streams: replay by direct get, consume from a durable pull consumer.

Both talk to the server through a `Mailbox`, a subscription of one connection that keeps what
arrives until it is taken; what may arrive is bounded by what was asked for. Headers that the server
adds come last in the block, so the *last* one of a name counts: a publisher can put the same names
into its own message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

from quarterdeck.errors import Broken, Unavailable
from quarterdeck.fabric.base import Delivery, Kept
from quarterdeck.fabric.connection import Connection, RawHandler, text_of
from quarterdeck.fabric.nats.link import Link

_BATCH_MESSAGES = 1024
_BATCH_BYTES = 4 << 20
_SILENT_BEATS = 2.5
# What a pull says that its bytes ended before its count; the second when they came out even.
_BYTES_ENDED = (b" 409 Message Size Exceeds MaxBytes", b" 409 Batch Completed")
ACK_MARK = b"$JS.ACK."

Raw = tuple[bytes, bytes, bytes, bytes | None]


class Mailbox:
    """Messages to one subject of ours, on one connection."""

    def __init__(self, client: Connection, subject: str) -> None:
        self.client = client
        self.subject = subject
        self.messages: list[Raw] = []
        self._arrived: asyncio.Future[None] | None = None
        client.on_lost[self._wake] = None
        self._sid = client.attach(subject, self._put)

    def _put(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.messages.append((subject, reply, data, headers))
        if self._arrived is not None:
            self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self, timeout_s: float) -> list[Raw]:
        """What has arrived; empty when nothing did in time or the connection was lost."""
        if not self.messages and self.client.lost_reason is None:
            self._arrived = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._arrived
            self._arrived = None
        taken, self.messages = self.messages, []
        return taken

    def close(self, last: RawHandler | None = None) -> list[Raw]:
        """What was not taken; what is still on its way goes to `last`."""
        self.client.on_lost.pop(self._wake, None)
        if last is None:
            self.client.detach(self._sid)
        else:
            self.client.retire(self._sid, last)
        return self.messages


def status_of(headers: bytes | None) -> int:
    """The status in the first line of a header block (`NATS/1.0 503`), 0 when there is none."""
    if headers is not None and headers.startswith(b"NATS/1.0 "):
        with contextlib.suppress(ValueError):
            return int(headers[9:12])
    return 0


def field(headers: bytes, name: bytes) -> bytes:
    """The last header of this name, empty when absent."""
    mark = b"\r\n" + name + b": "
    start = headers.rfind(mark)
    if start < 0:
        return b""
    start += len(mark)
    return headers[start : headers.find(b"\r\n", start)]


class _Batch:
    """One answer to a direct get: its messages, then how many more the stream has."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.complete = False
        self.pending = 0

    def add(self, stream: str, raw: Raw) -> None:
        _, _, data, headers = raw
        headers = headers or b""
        sequence = field(headers, b"Nats-Sequence")
        if sequence:
            subject = text_of(field(headers, b"Nats-Subject"))
            self.kept.append(Kept(int(sequence), subject, data))
            return
        status = status_of(headers)
        if status == 204:
            self.pending = int(field(headers, b"Nats-Num-Pending") or b"0")
        elif status == 503:
            raise Unavailable(
                "no_responders",
                f"JetStream stream {stream} is absent or not running at present.",
            )
        elif status != 404:
            words = headers.partition(b"\r\n")[0].decode(errors="replace")
            raise Broken("direct_get", f"JetStream stream {stream} refused a replay: {words}.")
        self.complete = True


async def replay(
    link: Link, inbox: str, stream: str, subject: str, after: int, timeout_s: float
) -> AsyncIterator[Kept]:
    """See `Fabric.replay`. At most two batches are in memory: one given out, one arriving."""
    client = link.client
    if client is None:
        raise _disconnected(stream)
    mailbox = Mailbox(client, inbox)

    def ask(start: int) -> None:
        question = {
            "seq": start,
            "next_by_subj": subject,
            "batch": _BATCH_MESSAGES,
            "max_bytes": _BATCH_BYTES,
        }
        client.post(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(question), inbox)

    try:
        ask(after + 1)
        more = True
        while more:
            batch = _Batch()
            while not batch.complete:
                arrived = await mailbox.take(timeout_s)
                if not arrived and client.lost_reason is not None:
                    raise _disconnected(stream)
                if not arrived:
                    raise Unavailable(
                        "timeout",
                        f"JetStream stream {stream} did not answer in {timeout_s:g} s.",
                    )
                for raw in arrived:
                    batch.add(stream, raw)
            more = batch.pending > 0 and bool(batch.kept)
            if more:
                ask(batch.kept[-1].sequence + 1)
            for kept in batch.kept:
                yield kept
    finally:
        mailbox.close()


def _disconnected(stream: str) -> Unavailable:
    return Unavailable(
        "disconnected", f"The link to the fabric is down: {stream} cannot be read now."
    )


class _Delivered:
    """One message of a work queue."""

    __slots__ = ("_link", "_reply", "data", "subject")

    def __init__(self, link: Link, subject: str, data: bytes, reply: str) -> None:
        self._link = link
        self.subject = subject
        self.data = data
        self._reply = reply

    def ack(self) -> None:
        # Lost with the link, it only makes the message come again.
        if self._link.client is not None:
            self._link.client.post(self._reply, b"+ACK")


class _Puller:
    """The pulls on one connection: one at a time, the next before the last is worked on.

    A pull ends with its count of messages or with its bytes, whichever comes first. A message that
    is larger than all the bytes of a pull is then pulled alone, without a limit.
    """

    def __init__(
        self, link: Link, client: Connection, inbox: str, api: str, batch: int, most_bytes: int
    ) -> None:
        self._link = link
        self._client = client
        self._api = api
        self._batch = batch
        self._most_bytes = most_bytes
        self._inbox = inbox
        self._number = 0
        self._owed = 0
        self._owed_bytes = 0
        self._any = False
        self._alone = False
        self.refused = False
        self.mailbox = Mailbox(client, f"{inbox}.*")

    def pull(self, idle_heartbeat_s: float) -> None:
        self._number += 1
        self._any = False
        self._owed = 1 if self._alone else self._batch
        self._owed_bytes = self._most_bytes
        beat = int(idle_heartbeat_s * 1e9)
        question = {"batch": self._owed, "expires": 6 * beat, "idle_heartbeat": beat}
        if not self._alone:
            question["max_bytes"] = self._most_bytes
        self._alone = False
        self._client.post(self._api, msgspec.json.encode(question), f"{self._inbox}.{self._number}")

    @property
    def wanting(self) -> bool:
        """Whether the present pull is used up."""
        return self._owed <= 0 or self._owed_bytes <= 0

    def sort(self, arrived: list[Raw], complain: Callable[[str], None]) -> list[Delivery]:
        """The messages among what arrived; statuses change what is owed."""
        found: list[Delivery] = []
        current = f"{self._inbox}.{self._number}".encode()
        for subject, reply, data, headers in arrived:
            if reply.startswith(ACK_MARK):
                self._owed -= 1
                self._owed_bytes -= len(subject) + len(reply) + len(data) + len(headers or b"")
                self._any = True
                found.append(_Delivered(self._link, text_of(subject), data, text_of(reply)))
                continue
            status = status_of(headers)
            if status == 100 or subject != current:
                continue
            self._owed = 0
            words = (headers or b"").partition(b"\r\n")[0]
            if words.endswith(_BYTES_ENDED):
                self._alone = not self._any
            elif status not in (404, 408) and headers is not None:
                said = words.decode(errors="replace").removeprefix("NATS/1.0 ")
                complain(f"a pull from {self._api} was refused: {said}")
                self.refused = True
        return found

    def give_back(self) -> None:
        """End; what nobody has taken is offered to other consumers at once."""
        for raw in self.mailbox.close(self._refuse):
            self._refuse(*raw)

    def _refuse(self, _subject: bytes, reply: bytes, _data: bytes, _headers: bytes | None) -> None:
        if reply.startswith(ACK_MARK) and self._client.lost_reason is None:
            self._client.post(reply.decode(), b"-NAK")


async def consume(
    link: Link,
    inbox: str,
    api: str,
    batch: int,
    *,
    most_bytes: int,
    idle_heartbeat_s: float,
    random: Callable[[], float],
    complain: Callable[[str], None],
) -> AsyncIterator[list[Delivery]]:
    """See `Fabric.consume`. Ends when the link is stopped. Holds at most two pulls of `batch`
    messages and about `most_bytes`."""
    told: set[str] = set()

    def complain_once(text: str) -> None:
        if text not in told:
            told.add(text)
            complain(text)

    while (client := await link.wait_up()) is not None:
        puller = _Puller(link, client, inbox, api, batch, most_bytes)
        try:
            puller.pull(idle_heartbeat_s)
            while client.lost_reason is None:
                arrived = await puller.mailbox.take(_SILENT_BEATS * idle_heartbeat_s)
                silent = not arrived
                found = puller.sort(arrived, complain_once)
                if puller.refused:
                    # No consumer, no stream, no leader: ask again, but not in a tight loop.
                    puller.refused = False
                    await asyncio.sleep(min(1.0, idle_heartbeat_s) * (0.5 + random()))
                if (puller.wanting or silent) and client.lost_reason is None:
                    puller.pull(idle_heartbeat_s)
                for start in range(0, len(found), batch):
                    yield found[start : start + batch]
        finally:
            puller.give_back()
