"""log.io 0.3 (CRLF ends a message) and 0.4 (NUL does): words separated by `|`, the text last."""

from __future__ import annotations

from collections.abc import Callable

from quarterdeck.core.foreign.framing import Delimited
from quarterdeck.core.foreign.message import (
    MESSAGE_BYTES,
    Bad,
    Bound,
    Closed,
    Line,
    Message,
    Told,
    without_end,
)

ERRORS = frozenset((b"error", b"err", b"crit", b"critical", b"alert", b"emerg", b"fatal"))
SHOWN = 20


class Pipes:
    """Both; `read` reads one message without its end."""

    def __init__(self, delimiter: bytes, read: Callable[[bytes], Message]) -> None:
        self._framing = Delimited(delimiter)
        self._read = read

    def feed(self, data: bytes) -> list[Message]:
        return [
            Bad(f"longer than {MESSAGE_BYTES} bytes") if part is None else self._read(part)
            for part in self._framing.feed(data)
        ]

    def finish(self) -> list[Message]:
        """Half a message is none."""
        return [Bad("the connection ended in a message")] if self._framing.finish() else []


def logio() -> Pipes:
    """A connection of log.io 0.3."""
    return Pipes(b"\r\n", read)


def logio4() -> Pipes:
    """A connection of log.io 0.4."""
    return Pipes(b"\0", read4)


def read(part: bytes) -> Message:
    """0.3: `+log|stream|node|level|text`, `+node|name[|streams]`, `+stream|name[|nodes]`,
    `+bind|node|name`, `-node|name`, `-stream|name`."""
    match part.split(b"|", 4):
        case [b"+log", stream, node, level, text] if stream and node:
            error = level.lower() in ERRORS
            return Line(_word(stream), _word(node), without_end(text), error)
        case [b"+node" | b"+stream", name, *_] if name:
            return Told()
        case [b"+bind", b"node", node] if node:
            return Bound(_word(node))
        case [b"-node", node] if node:
            return Closed(None, _word(node))
        case [b"-stream", stream] if stream:
            return Closed(_word(stream), None)
        case words:
            return _unknown(words[0])


def read4(part: bytes) -> Message:
    """0.4: `+msg|stream|source|text`, `+input|stream|source`, `-input|stream|source`."""
    match part.split(b"|", 3):
        case [b"+msg", stream, source, text] if stream and source:
            return Line(_word(stream), _word(source), without_end(text))
        case [b"+input", stream, source] if stream and source:
            return Told()
        case [b"-input", stream, source] if stream and source:
            return Closed(_word(stream), _word(source))
        case words:
            return _unknown(words[0])


def _word(word: bytes) -> str:
    return word.decode("utf-8", "replace")


def _unknown(verb: bytes) -> Bad:
    shown = ascii(verb[:SHOWN].decode("utf-8", "replace"))
    return Bad(f"no message of log.io has these words: {shown} ...")
