"""The messages all foreign protocols come down to."""

from __future__ import annotations

from typing import Protocol

import msgspec

MESSAGE_BYTES = 65 << 10
"""The longest message that is taken: 64 KiB of text and the words before it."""


class Line(msgspec.Struct, frozen=True):
    """Text for the trace `name` of `sender`, as the sender wrote these; an empty `name` or `sender`
    was not told. `text` has no line end at its end. `error` when the sender calls it an error,
    `time_us` is its own time of it (Unix microseconds), if it told any."""

    name: str
    sender: str
    text: bytes
    error: bool = False
    time_us: int | None = None


class Closed(msgspec.Struct, frozen=True):
    """The sender says that these traces are over: of one name, one sender, or both."""

    name: str | None
    sender: str | None


class Bound(msgspec.Struct, frozen=True):
    """The sender of log.io 0.3 wants to be told that it is heard."""

    sender: str


class Told(msgspec.Struct, frozen=True):
    """A message that changes nothing here: who will send under which names."""


class Bad(msgspec.Struct, frozen=True):
    """A message that can't be read, and why."""

    why: str


Message = Line | Closed | Bound | Told | Bad


class Parser(Protocol):
    """Reads one connection."""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole now."""
        ...

    def finish(self) -> list[Message]:
        """What is left at the end of the connection."""
        ...


def without_end(text: bytes) -> bytes:
    """A text without the line end at its end."""
    return text.removesuffix(b"\n").removesuffix(b"\r")
