"""Messages out of a stream of bytes that may be torn anywhere.

Both framings give each message, or None for one that was too long; what is kept of a message that
is not whole yet is at most `MESSAGE_BYTES` and its delimiter.
"""

from __future__ import annotations

import re

from quarterdeck.core.foreign.message import MESSAGE_BYTES

_COUNT = re.compile(rb"([1-9][0-9]{0,6}) <")
_BLANK = re.compile(rb"[\r\n]+")
_MAYBE_COUNT = re.compile(rb"[1-9][0-9]{0,6} ?")


class Delimited:
    """Each message ends with `delimiter`."""

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        self._torn = len(delimiter) - 1  # bytes at the end that may begin a delimiter
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        *whole, rest = (self._rest + data).split(self._delimiter)
        found: list[bytes | None] = []
        for part in whole:
            if self._skipping:
                self._skipping = False
            else:
                found.append(part if len(part) <= MESSAGE_BYTES else None)
        if not self._skipping and len(rest) > MESSAGE_BYTES + self._torn:
            self._skipping = True
            found.append(None)
        self._rest = rest[len(rest) - self._torn :] if self._skipping else rest
        return found

    def finish(self) -> bytes:
        """What is left without a delimiter, if it is not of a message that was too long."""
        rest, self._rest = self._rest, b""
        return b"" if self._skipping else rest


class Octets:
    """Syslog over TCP (RFC 6587): a message is preceded by its length, or ends with LF.

    Each message may choose. As each begins with `<`, digits and a space before a `<` are a length.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0  # bytes of a message that was too long
        self._skipping = False  # ... whose end is an LF

    def feed(self, data: bytes) -> list[bytes | None]:
        rest = self._rest + data
        found: list[bytes | None] = []
        at = 0
        while (taken := self._take(rest, at, found)) > at:
            at = taken
        self._rest = rest[at:]
        return found

    def finish(self) -> list[bytes | None]:
        rest, self._rest = self._rest, b""
        if not rest or self._skip or self._skipping:
            return []
        return [None if _COUNT.match(rest) else rest]

    def _take(self, rest: bytes, at: int, found: list[bytes | None]) -> int:
        """Take one message, or part of one that is skipped; where the next begins, `at` when more
        bytes are needed."""
        if self._skip:
            step = min(self._skip, len(rest) - at)
            self._skip -= step
            return at + step
        if not self._skipping:
            if (blank := _BLANK.match(rest, at)) is not None:
                return blank.end()
            if (count := _COUNT.match(rest, at)) is not None:
                return self._counted(rest, count, found)
            if _MAYBE_COUNT.fullmatch(rest, at):
                return at
        end = rest.find(b"\n", at)
        if end >= 0:
            if self._skipping:
                self._skipping = False
            else:
                found.append(rest[at:end] if end - at <= MESSAGE_BYTES else None)
            return end + 1
        if self._skipping:
            return len(rest)
        if len(rest) - at > MESSAGE_BYTES:
            self._skipping = True
            found.append(None)
            return len(rest)
        return at

    def _counted(self, rest: bytes, count: re.Match[bytes], found: list[bytes | None]) -> int:
        length = int(count[1])
        begin = count.end() - 1
        if length > MESSAGE_BYTES:
            found.append(None)
            self._skip = length
            return begin
        if len(rest) - begin < length:
            return count.start()
        found.append(rest[begin : begin + length])
        return begin + length
