"""A durable pull consumer of a stream in memory: pulls, acknowledgements, redelivery."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from quarterdeck.fabric.memory.stream import Entry, Stream

_SECOND_NS = 10**9


class Post(Protocol):
    """Gives a message to whoever listens to `to`, as one about `subject`; False: nobody."""

    def __call__(
        self, to: str, data: bytes, headers: bytes = b"", *, subject: str = "", reply: str = ""
    ) -> bool: ...


class _Pull:
    def __init__(self, to: str, batch: int, until: float, beat_s: float, now: float) -> None:
        self.to = to
        self.left = batch
        self.left_bytes = float("inf")
        self.until = until
        self.beat_s = beat_s
        self.spoke_at = now
        self.timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.left = 0


class _Pending:
    def __init__(self, until: float) -> None:
        self.until = until
        self.deliveries = 0


class Consumer:
    """Messages are offered in the order of the stream, those that come again first."""

    def __init__(
        self, stream: Stream, config: dict[str, Any], post: Post, listened: Callable[[str], bool]
    ) -> None:
        self.config = config
        self._stream = stream
        self._post = post
        self._listened = listened
        self._cursor = 1
        self._deliveries = 0
        self._pending: dict[int, _Pending] = {}
        self._again: dict[int, None] = {}
        self._pulls: deque[_Pull] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def pull(self, to: str, question: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        expires = question.get("expires", 0) / _SECOND_NS or float("inf")
        beat_s = question.get("idle_heartbeat", 0) / _SECOND_NS or float("inf")
        pull = _Pull(to, question.get("batch", 1), now + expires, beat_s, now)
        pull.left_bytes = question.get("max_bytes", 0) or float("inf")
        self._pulls.append(pull)
        self._watch(pull)
        self.serve()

    def settle(self, sequence: int, word: bytes) -> None:
        """An acknowledgement, or the wish to have it offered again at once."""
        if sequence not in self._pending:
            return
        if word == b"-NAK":
            self._again[sequence] = None
        else:
            del self._pending[sequence]
            self._again.pop(sequence, None)
            if self._stream.config.get("retention") == "workqueue":
                self._stream.remove(sequence)
        self.serve()

    def serve(self) -> None:
        """Give messages to those who pull, one each in turn."""
        while self._pulls:
            pull = self._pulls[0]
            if not self._listened(pull.to):
                pull.end()
                self._pulls.popleft()
                continue
            entry = self._take()
            if entry is None:
                return
            self._pulls.popleft()
            if not self._deliver(pull, entry):
                self._put_back(entry)
                pull.end()
            elif pull.left:
                self._pulls.append(pull)
            else:
                pull.end()

    def crash(self) -> None:
        """Pulls are forgotten; what was not acknowledged stays so."""
        for pull in self._pulls:
            pull.end()
        self._pulls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def restarted(self) -> None:
        wait_s = self._ack_wait_s
        now = asyncio.get_running_loop().time()
        for pending in self._pending.values():
            pending.until = now + wait_s
        self._arm()

    @property
    def _ack_wait_s(self) -> float:
        return float(self.config["ack_wait"]) / _SECOND_NS

    def _take(self) -> Entry | None:
        while self._again:
            sequence = next(iter(self._again))
            del self._again[sequence]
            if sequence in self._stream.entries:
                return self._stream.entries[sequence]
            del self._pending[sequence]  # purged meanwhile
        if 0 <= self.config.get("max_ack_pending", -1) <= len(self._pending):
            return None
        while self._cursor <= self._stream.last:
            self._cursor += 1
            entry = self._stream.entries.get(self._cursor - 1)
            if entry is not None:
                return entry
        return None

    def _put_back(self, entry: Entry) -> None:
        """The next to be taken is this one, as if it had not been."""
        if entry.sequence in self._pending:
            self._again = {entry.sequence: None, **self._again}
        else:
            self._cursor = entry.sequence

    def _deliver(self, pull: _Pull, entry: Entry) -> bool:
        """False when it exceeds the bytes of the pull, which has been told so."""
        now = asyncio.get_running_loop().time()
        pending = self._pending.get(entry.sequence)
        reply = self._reply(entry, 1 if pending is None else pending.deliveries + 1, now)
        size = len(entry.subject) + len(reply) + len(entry.headers) + len(entry.data)
        if size > pull.left_bytes:
            head = "NATS/1.0 409 Message Size Exceeds MaxBytes\r\n"
            left = f"Nats-Pending-Messages: {pull.left}\r\nNats-Pending-Bytes: {pull.left_bytes}"
            self._post(pull.to, b"", f"{head}{left}\r\n\r\n".encode())
            return False
        pull.left_bytes -= size
        # Taken out and put back: the first of all is the next to be due.
        pending = self._pending.pop(entry.sequence, None) or _Pending(0.0)
        self._pending[entry.sequence] = pending
        pending.until = now + self._ack_wait_s
        pending.deliveries += 1
        self._deliveries += 1
        pull.left -= 1
        pull.spoke_at = now
        self._post(pull.to, entry.data, entry.headers, subject=entry.subject, reply=reply)
        if not pull.left_bytes:
            pull.left = 0
            self._post(pull.to, b"", b"NATS/1.0 409 Batch Completed\r\n\r\n")
        self._arm()
        return True

    def _reply(self, entry: Entry, delivery: int, now: float) -> str:
        name, durable = self._stream.config["name"], self.config["durable_name"]
        facts = f"{delivery}.{entry.sequence}.{self._deliveries + 1}.{int(now * _SECOND_NS)}"
        return f"$JS.ACK.{name}.{durable}.{facts}.{self._stream.last - self._cursor + 1}"

    def _arm(self) -> None:
        if self._timer is None and self._pending:
            until = next(iter(self._pending.values())).until
            self._timer = asyncio.get_running_loop().call_at(until, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for sequence, pending in list(self._pending.items()):
            if pending.until > now:
                break
            self._again[sequence] = None
            pending.until = now + self._ack_wait_s
            self._pending[sequence] = self._pending.pop(sequence)
        self._arm()
        self.serve()

    def _watch(self, pull: _Pull) -> None:
        at = min(pull.spoke_at + pull.beat_s, pull.until)
        if at < float("inf"):
            pull.timer = asyncio.get_running_loop().call_at(at, self._tick, pull)

    def _tick(self, pull: _Pull) -> None:
        now = asyncio.get_running_loop().time()
        if not self._listened(pull.to):
            self._pulls.remove(pull)
            return
        if now >= pull.until:
            self._pulls.remove(pull)
            self._post(pull.to, b"", b"NATS/1.0 408 Request Timeout\r\n\r\n")
            return
        if now >= pull.spoke_at + pull.beat_s:
            pull.spoke_at = now
            self._post(pull.to, b"", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n")
        self._watch(pull)
