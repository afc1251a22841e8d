"""Messages between the two ends: a JSON object and some bytes, each with its length before it.

Standard library only: both ends use it.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Protocol

LENGTHS = struct.Struct(">II")
MOST_BYTES = 64 << 20
GREETING = b"\nquarterdeck-far-1\n"
"""Written by the far end before its first frame: what a login prints comes before it."""


class Bytes(Protocol):
    """A stream that gives exactly so many bytes, or raises EOFError (IncompleteReadError)."""

    async def readexactly(self, n: int) -> bytes: ...


def pack(head: dict[str, Any], blob: bytes = b"") -> bytes:
    """One message."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(text), len(blob)) + text + blob


async def read(stream: Bytes) -> tuple[dict[str, Any], bytes]:
    """The next message. Raises EOFError at the end, ValueError for what is none."""
    size, rest = LENGTHS.unpack(await stream.readexactly(LENGTHS.size))
    if size > MOST_BYTES or rest > MOST_BYTES:
        raise ValueError(f"a message of {size} and {rest} bytes")
    head = json.loads(await stream.readexactly(size))
    if not isinstance(head, dict):
        raise ValueError("a message that is no JSON object")
    return head, await stream.readexactly(rest) if rest else b""
