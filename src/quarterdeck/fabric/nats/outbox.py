"""Messages for JetStream streams, sent again until the stream has answered.

Everything is a plain call: `store` sends at once when the window has room, an answer makes room for
the next, a timer sends again what has had no answer. While the link is down all of it waits; when
it is back, what was in flight goes first, in its old order.

A connection loses nothing while it stands, so an answer that is late is mostly still to come: on a
slow link the window takes longer than any timeout. Sent again on the same connection is only what
is overdue *and* was overtaken (something sent later has been answered), or when nothing waits to
leave and no answer at all has come for the timeout. Else a slow link would choke on repeats.

An entry is in exactly one place: `_waiting` (to be sent) or `_sent` (in flight, or resting after a
refusal that passes, until `due`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from quarterdeck.errors import Invalid
from quarterdeck.fabric.base import Refused, Stored
from quarterdeck.fabric.connection import Connection, check_subject

TOO_LARGE = 10054
DENIED = 403
# Not now: 10008 temporarily unavailable, 10158 the same id is being stored, 10167 too many at once.
_PASSING = frozenset({10008, 10158, 10167})
_REST_FIRST_S = 0.1
_REST_CAP_S = 5.0
_ACK_CAP_FACTOR = 6
_TELL_AT_TRY = 2


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    seq: int = 0
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class _Entry:
    __slots__ = ("data", "due", "future", "headers", "resting", "sending", "subject", "tries")

    def __init__(
        self,
        subject: str,
        data: bytes | bytearray,
        headers: bytes,
        future: asyncio.Future[Stored | Refused],
    ) -> None:
        self.subject = subject
        self.data = data
        self.headers = headers
        self.future = future
        self.due = 0.0
        self.tries = 0
        self.resting = False  # refused for the moment
        self.sending = 0  # number of its last sending, over all entries


class Outbox:
    """`inbox`: the subject prefix that answers come to, ending in a dot."""

    def __init__(
        self,
        inbox: str,
        *,
        random: Callable[[], float],
        ack_timeout_s: float,
        window_messages: int,
        window_bytes: int,
        complain: Callable[[str], None],
    ) -> None:
        self._inbox = inbox
        self._random = random
        self._ack_timeout_s = ack_timeout_s
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._complain = complain
        self._client: Connection | None = None
        self._next = 0
        self._waiting: deque[tuple[int, _Entry]] = deque()
        self._sent: dict[int, _Entry] = {}
        self._sent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._sendings = 0
        self._latest_answered = 0
        self._last_answer = 0.0

    def store(
        self, subject: str, data: bytes | bytearray, message_id: str
    ) -> asyncio.Future[Stored | Refused]:
        check_subject(subject)
        headers = b""
        if message_id:
            if not message_id.isprintable():
                raise Invalid("bad_message_id", f"{message_id!r} cannot be a message id.")
            headers = f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\n\r\n".encode()
        future: asyncio.Future[Stored | Refused] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.cancel()
            return future
        self._next += 1
        self._waiting.append((self._next, _Entry(subject, data, headers, future)))
        self._pump()
        return future

    def up(self, client: Connection) -> None:
        """The link stands: send what waits."""
        self._client = client
        self._pump()

    def down(self) -> None:
        """The link is gone: what was in flight goes first next time."""
        self._client = None
        self._waiting.extendleft(reversed(self._sent.items()))
        self._sent.clear()
        self._sent_bytes = 0
        self._disarm()

    def close(self) -> None:
        """Cancel what has had no answer, and whatever comes from now on."""
        self._closed = True
        self.down()
        for _, entry in self._waiting:
            entry.future.cancel()
        self._waiting.clear()

    def denied(self, subject: str) -> None:
        """The fabric refused to take messages for this subject (given in lower case)."""
        for key, entry in list(self._sent.items()):
            if entry.subject.lower() == subject:
                self._resolve(key, Refused(DENIED, f"no right to send to {entry.subject}"))
        self._pump()

    def answered(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes | None) -> None:
        """An answer of the stream, or of the server when no stream listens."""
        try:
            key = int(subject[len(self._inbox) :])
        except ValueError:
            return
        entry = self._sent.get(key)
        if entry is None:
            return  # of an earlier sending, answered by now
        self._latest_answered = max(self._latest_answered, entry.sending)
        self._last_answer = asyncio.get_running_loop().time()
        if headers is not None and headers.startswith(b"NATS/1.0 503"):
            self._rest(entry, f"no stream takes {entry.subject} at present")
            return
        try:
            answer = _decode(data)
        except msgspec.DecodeError:
            self._complain(f"{entry.subject}: the answer is not one of a stream")
            return
        if answer.error is None:
            self._resolve(key, Stored(answer.seq))
        elif answer.error.err_code in _PASSING:
            self._rest(entry, answer.error.description)
        else:
            self._resolve(key, Refused(answer.error.err_code, answer.error.description))
        if self._waiting:
            self._pump()

    def _resolve(self, key: int, result: Stored | Refused) -> None:
        entry = self._sent.pop(key)
        self._sent_bytes -= len(entry.data)
        if not entry.future.done():
            entry.future.set_result(result)

    def _rest(self, entry: _Entry, reason: str) -> None:
        if entry.tries == 1:
            self._complain(f"not stored yet: {reason}; trying again")
        entry.resting = True
        pause = min(_REST_CAP_S, _REST_FIRST_S * 2.0 ** min(entry.tries - 1, 10))
        entry.due = asyncio.get_running_loop().time() + pause * (0.5 + self._random())

    def _pump(self) -> None:
        client = self._client
        if client is None:
            return
        while (
            self._waiting
            and len(self._sent) < self._window_messages
            and (self._sent_bytes < self._window_bytes or not self._sent)
        ):
            key, entry = self._waiting.popleft()
            if not entry.future.done():
                self._sent[key] = entry
                self._sent_bytes += len(entry.data)
                self._send(client, key, entry)
        if self._sent and self._timer is None:
            self._arm()

    def _send(self, client: Connection, key: int, entry: _Entry) -> None:
        if len(entry.data) + len(entry.headers) > client.max_payload:
            # Sent all the same, it would cost the connection.
            limit = client.max_payload
            self._resolve(key, Refused(TOO_LARGE, f"message larger than {limit} bytes"))
            return
        factor = min(2**entry.tries, _ACK_CAP_FACTOR)
        pause = self._ack_timeout_s * factor * (1 + 0.25 * self._random())
        entry.tries += 1
        entry.resting = False
        self._sendings += 1
        entry.sending = self._sendings
        entry.due = asyncio.get_running_loop().time() + pause
        client.post(entry.subject, entry.data, f"{self._inbox}{key}", entry.headers)

    def _arm(self) -> None:
        pause = min(0.25, self._ack_timeout_s / 4)
        self._timer = asyncio.get_running_loop().call_later(pause, self._sweep)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        client = self._client
        if client is None:
            return
        now = asyncio.get_running_loop().time()
        silent = client.unsent == 0 and now - self._last_answer >= self._ack_timeout_s
        for key, entry in list(self._sent.items()):
            if entry.future.done():
                del self._sent[key]
                self._sent_bytes -= len(entry.data)
            elif entry.due <= now and (
                silent or entry.resting or entry.sending < self._latest_answered
            ):
                if entry.tries == _TELL_AT_TRY and not entry.resting:
                    # A stream that has met a full disk says nothing at all.
                    self._complain(f"no answer from the stream of {entry.subject}; sending again")
                self._send(client, key, entry)
        self._pump()
