"""The `times` of an attempt: fixed records of (stream, offset, microseconds)."""

from __future__ import annotations

import struct

from quarterdeck.core.stream import Mark
from quarterdeck.wire.codec import STREAM_NAMES, STREAM_NUMBERS

RECORD = struct.Struct("<BQQ")
MOST_MARKS = 500_000
"""More of one attempt are neither read nor kept: what comes later is shown stream by stream."""
MOST_BYTES = MOST_MARKS * RECORD.size


def encode_marks(marks: list[Mark]) -> bytes:
    """The bytes of some marks."""
    return b"".join(
        RECORD.pack(STREAM_NUMBERS[mark.stream], mark.offset, mark.time_us) for mark in marks
    )


def decode_marks(data: bytes) -> tuple[list[Mark], int]:
    """(marks, bytes used): a record cut off at the end is left for the next call.

    A record of an unknown stream (damage) is skipped: marks only order what is shown.
    """
    whole = len(data) - len(data) % RECORD.size
    marks = [
        Mark(STREAM_NAMES[stream], offset, time_us)
        for stream, offset, time_us in RECORD.iter_unpack(data[:whole])
        if stream in STREAM_NAMES
    ]
    return marks, whole
