"""One JetStream stream in memory: messages by sequence, limits, ids that were seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from quarterdeck.fabric.memory.interest import matches
from quarterdeck.fabric.topology import FULL, TOO_LARGE

DEFAULT_WINDOW_NS = 120 * 10**9
_RECORD_BYTES = 30  # what the file store of nats-server adds to each message
_HEADER_BYTES = 4
_ID_MARK = b"\r\nNats-Msg-Id: "


class Entry(NamedTuple):
    """One message as it lies in the stream."""

    sequence: int
    subject: str
    headers: bytes
    data: bytes
    stored_at: float

    @property
    def size(self) -> int:
        extra = len(self.headers) + _HEADER_BYTES if self.headers else 0
        return _RECORD_BYTES + len(self.subject) + len(self.data) + extra


class Full(Exception):
    """The stream takes nothing more; status, `code` and words as JetStream has them."""

    status = 503
    code = FULL
    words = "maximum bytes exceeded"


class TooLarge(Full):
    """The stream takes no message of this length."""

    status = 400
    code = TOO_LARGE
    words = "message size exceeds maximum allowed"


class Stream:
    """`full`: refuses everything, whatever its limits say."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.entries: dict[int, Entry] = {}
        self.bytes = 0
        self.last = 0
        self.full = False
        self._by_subject: dict[str, dict[int, None]] = {}
        self._ids: dict[str, tuple[int, float]] = {}

    def covers(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.config["subjects"])

    def store(self, subject: str, headers: bytes, data: bytes, now: float) -> tuple[int, bool]:
        """Its sequence, and whether it was there already. Raises `Full`, `TooLarge`."""
        self.expire(now)
        self._forget_ids(now)
        message_id = _id_of(headers)
        if message_id and message_id in self._ids:
            return self._ids[message_id][0], True
        entry = Entry(self.last + 1, subject, headers, data, now)
        if 0 < self.config.get("max_msg_size", -1) < len(headers) + len(data):
            raise TooLarge
        limit = self.config.get("max_bytes", -1)
        if self.config.get("discard") == "old":
            while self.entries and 0 <= limit < self.bytes + entry.size:
                self.remove(next(iter(self.entries)))
        if self.full or 0 <= limit < self.bytes + entry.size:
            raise Full
        self.last += 1
        self.bytes += entry.size
        self.entries[entry.sequence] = entry
        self._by_subject.setdefault(subject, {})[entry.sequence] = None
        if message_id:
            self._ids[message_id] = (entry.sequence, now)
        return entry.sequence, False

    @property
    def in_memory(self) -> bool:
        """Whether a crash takes it."""
        return self.config.get("storage") == "memory"

    def expire(self, now: float) -> None:
        """Drop what is too old."""
        max_age_s = self.config.get("max_age", 0) / 10**9
        while max_age_s and self.entries:
            sequence, entry = next(iter(self.entries.items()))
            if now - entry.stored_at < max_age_s:
                return
            self.remove(sequence)

    def remove(self, sequence: int) -> None:
        entry = self.entries.pop(sequence, None)
        if entry is None:
            return
        self.bytes -= entry.size
        same = self._by_subject[entry.subject]
        del same[sequence]
        if not same:
            del self._by_subject[entry.subject]

    def purge(self, pattern: str) -> int:
        """The number of messages that were removed."""
        gone = [entry.sequence for entry in self.select(pattern, 1)]
        for sequence in gone:
            self.remove(sequence)
        return len(gone)

    def select(self, pattern: str, start: int) -> Iterator[Entry]:
        """Messages of a subject from a sequence on, oldest first."""
        if "*" in pattern or ">" in pattern:
            for entry in list(self.entries.values()):
                if entry.sequence >= start and matches(pattern, entry.subject):
                    yield entry
        else:
            for sequence in list(self._by_subject.get(pattern, ())):
                if sequence >= start:
                    yield self.entries[sequence]

    def subjects(self, pattern: str) -> dict[str, int]:
        """How many messages of each subject there are."""
        return {
            subject: len(same)
            for subject, same in self._by_subject.items()
            if matches(pattern, subject)
        }

    def restarted(self, now: float) -> None:
        """After a crash only ids of messages that are still there are known."""
        self._ids = {
            message_id: (entry.sequence, entry.stored_at)
            for entry in self.entries.values()
            if (message_id := _id_of(entry.headers))
        }
        self._forget_ids(now)

    def _forget_ids(self, now: float) -> None:
        oldest = now - self.config.get("duplicate_window", DEFAULT_WINDOW_NS) / 10**9
        while self._ids:
            message_id = next(iter(self._ids))  # in the order of arrival
            if self._ids[message_id][1] >= oldest:
                return
            del self._ids[message_id]


def _id_of(headers: bytes) -> str:
    start = headers.find(_ID_MARK)
    if start < 0:
        return ""
    start += len(_ID_MARK)
    return headers[start : headers.find(b"\r\n", start)].decode()
