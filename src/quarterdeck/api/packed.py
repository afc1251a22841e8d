"""Events for our own clients: what a task wrote travels as the bytes it is, not as text in JSON.

Asked for with `Accept: application/vnd.quarterdeck.events`. Each event is two lengths (32 bits,
big-endian), a JSON object {"id", "event"} of the first length, and raw output of the second. Two
zeros say that the server is still there.
"""

from __future__ import annotations

import struct

import msgspec

from quarterdeck.api.live import LiveEvent, OutputEvent, Spelling, live_event
from quarterdeck.control.watch import OutputSeen, Seen

MEDIA_TYPE = "application/vnd.quarterdeck.events"
LENGTHS = struct.Struct(">II")


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """What stands before the raw output; `id` is the cursor after the event."""

    id: str | None
    event: LiveEvent


_encode = msgspec.json.Encoder().encode


def packed(event: LiveEvent, cursor: str | None, output: bytes = b"") -> bytes:
    """One event on the wire."""
    head = _encode(Packet(id=cursor, event=event))
    return LENGTHS.pack(len(head), len(output)) + head + output


def _seen(seen: Seen, cursor: str | None) -> bytes:
    if not isinstance(seen, OutputSeen):
        return packed(live_event(seen), cursor)
    event = OutputEvent(
        task=seen.task.id,
        node=seen.task.node_name,
        attempt=seen.attempt,
        stream=seen.chunk.stream,
        offset=seen.chunk.offset,
        time_us=seen.chunk.time_us,
    )
    return packed(event, cursor, seen.chunk.data)


PACKED = Spelling(
    media_type=MEDIA_TYPE,
    opening=b"",
    still_here=LENGTHS.pack(0, 0),
    event=packed,
    seen=_seen,
)
