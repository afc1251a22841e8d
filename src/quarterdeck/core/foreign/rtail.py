"""rtail: each datagram is one JSON object `{"id", "timestamp" (ms), "content" (any JSON)}`."""

from __future__ import annotations

import json
import re

import msgspec

from quarterdeck.core.foreign.message import MESSAGE_BYTES, Bad, Line, Message, without_end

LAST_MS = 253_402_300_799_999  # the end of the year 9999


class _Datagram(msgspec.Struct, frozen=True):
    id: str | int
    content: msgspec.Raw
    timestamp: msgspec.Raw = msgspec.Raw(b"null")


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_decoder = msgspec.json.Decoder(_Datagram)
_text = msgspec.json.Decoder(str)
_number = msgspec.json.Decoder(float)


def read(data: bytes) -> Message:
    """The message in a datagram: text as it is, other JSON on one line."""
    if len(data) > MESSAGE_BYTES:
        return Bad(f"longer than {MESSAGE_BYTES} bytes")
    try:
        found = _decoded(data.decode("utf-8", "replace"))
        text = _one_line(bytes(found.content))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Bad("not a JSON object with id and content")
    return Line(str(found.id), "", without_end(text), False, _time_us(bytes(found.timestamp)))


def _decoded(text: str) -> _Datagram:
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError:
        if not _SURROGATE.search(text):
            raise
    # JavaScript that cuts a text may leave half of a pair, which is no text: it becomes `?`
    return _decoder.decode(
        json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace")
    )


def _one_line(content: bytes) -> bytes:
    if content.startswith(b'"'):
        return _text.decode(content).encode()
    return msgspec.json.format(content, indent=-1)


def _time_us(timestamp: bytes) -> int | None:
    try:
        ms = _number.decode(timestamp)
    except (msgspec.DecodeError, ValueError):
        return None
    return int(ms) * 1000 if 0 <= ms <= LAST_MS else None
