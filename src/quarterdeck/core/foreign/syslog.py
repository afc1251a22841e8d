"""syslog: RFC 5424, and what RFC 3164 saw in the wild.

The name is the app-name or tag, the sender the host; both may be missing. The text is the message;
of the structured data those elements stand before it that are the sender's own (`name@number`).
Severity error and worse is an error. A time without a year and a zone (RFC 3164) is not taken.
"""

from __future__ import annotations

import re
from datetime import datetime

from quarterdeck.core.foreign.framing import Octets
from quarterdeck.core.foreign.message import MESSAGE_BYTES, Bad, Line, Message, without_end

LAST_PRIORITY = 191
ERROR = 3
NIL = b"-"
BOM = b"\xef\xbb\xbf"
LAST_US = 253_402_300_799_999_999

_PRIORITY = re.compile(rb"<([0-9]{1,3})>")
_ELEMENT = re.compile(rb'\[[^ =\]"]+(?: [^ =\]"]+="(?:[^"\\]|\\.)*+")*+\]', re.DOTALL)
_STAMP = re.compile(
    rb"(?:(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 0-3]?[0-9](?: [0-9]{4})? "
    rb"[0-2][0-9]:[0-5][0-9]:[0-6][0-9](?:\.[0-9]+)?|"
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9]{2}:[0-9]{2}))) "
)
_HOST = re.compile(rb"([^ :\[\]]{1,255}|[0-9A-Fa-f:.]{1,44}[0-9A-Fa-f]) ")
_TAG = re.compile(rb"([^ :\[\]<]{1,100})(?:\[[^\]]{0,100}\])?:(?: |$)")
_TAG_WITH_PID = re.compile(rb"([^ :\[\]<]{1,100})\[[^\]]{0,100}\](?: |$)")


class Syslog:
    """Over TCP."""

    def __init__(self) -> None:
        self._framing = Octets()

    def feed(self, data: bytes) -> list[Message]:
        return [_part(part) for part in self._framing.feed(data)]

    def finish(self) -> list[Message]:
        """A last line needs no end; a counted message that is not whole is none."""
        return [_part(part) for part in self._framing.finish()]


def read(data: bytes) -> Message:
    """One message: a datagram, or a frame of a connection."""
    if len(data) > MESSAGE_BYTES:
        return _part(None)
    found = _PRIORITY.match(data)
    if found is None or int(found[1]) > LAST_PRIORITY:
        return Bad("no priority <0> to <191> at the beginning")
    error = int(found[1]) % 8 <= ERROR
    rest = without_end(data[found.end() :].rstrip(b"\0"))
    if rest.startswith(b"1 "):
        words = rest.split(b" ", 6)
        if len(words) == 7:
            return _new(words, error)
    return _old(rest, error)


def _part(part: bytes | None) -> Message:
    return Bad(f"longer than {MESSAGE_BYTES} bytes, or cut") if part is None else read(part)


def _new(words: list[bytes], error: bool) -> Line:
    """RFC 5424: version, time, host, app-name, process, message id, the rest."""
    _, stamp, host, app, _, _, rest = words
    return Line(_word(app), _word(host), _text(rest), error, _time_us(stamp))


def _text(rest: bytes) -> bytes:
    """The message and what of the structured data belongs to it."""
    if rest == NIL or rest.startswith(b"- "):
        return rest[2:].removeprefix(BOM)
    at, kept = 0, []
    while (element := _ELEMENT.match(rest, at)) is not None:
        at = element.end()
        if b"@" in element[0].split(b" ", 1)[0]:
            kept.append(element[0])
    text = rest[at:].removeprefix(b" ").removeprefix(BOM)
    return b" ".join((b"".join(kept), text)) if kept and text else b"".join(kept) or text


def _old(rest: bytes, error: bool) -> Line:
    """RFC 3164: time, host, tag with or without a process, text; any of them may be missing."""
    host, tag, time_us = b"", b"", None
    stamp = _STAMP.match(rest)
    if stamp is not None:
        time_us = _time_us(stamp[1]) if stamp[1] else None
        rest = rest[stamp.end() :]
        if not _tagged(rest) and (found := _HOST.match(rest)) is not None:
            host, rest = found[1], rest[found.end() :]
    if (found := _tagged(rest)) is not None:
        tag, rest = found[1], rest[found.end() :]
    return Line(_word(tag), _word(host), rest.removeprefix(BOM), error, time_us)


def _tagged(rest: bytes) -> re.Match[bytes] | None:
    return _TAG.match(rest) or _TAG_WITH_PID.match(rest)


def _word(word: bytes) -> str:
    return "" if word == NIL else word.decode("utf-8", "replace")


def _time_us(stamp: bytes) -> int | None:
    try:
        at = datetime.fromisoformat(stamp.decode("ascii"))
        time_us = round(at.timestamp() * 1e6) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
    return time_us if time_us is not None and 0 <= time_us <= LAST_US else None
