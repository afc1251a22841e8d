"""What senders of traces say: frames in the body of an upload, and chunks on the fabric.

A frame is a header, then its bytes: kind (1 output, 2 dropped), stream (0 stdout, 1 stderr),
offset, microseconds UTC, length. The data of kind 2 is a number of bytes, which were dropped at the
offset. On the fabric, output is a chunk as of any attempt; a drop has a version of its own there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from quarterdeck.core.model import STREAMS
from quarterdeck.core.trace import MOST_COUNT, Dropped, Frame
from quarterdeck.errors import Invalid
from quarterdeck.wire.codec import CHUNK_HEADER, STREAM_NAMES, STREAM_NUMBERS, Chunk, decode_chunk

FRAME = struct.Struct("!BBQQI")
COUNT = struct.Struct("!Q")
OUTPUT, DROPPED = 1, 2
MOST_FRAME = 1 << 20
MOST_BODY = 4 << 20
MOST_OFFSET = 1 << 62
PIECE = 128 << 10
"""Bytes of one chunk at most."""
TOGETHER_US = 20_000
"""Neighbours of one stream that were read so soon after one another become one chunk."""
DROP_VERSION = 2


def encode_frame(frame: Frame) -> bytes:
    """A frame as it is uploaded."""
    kind = DROPPED if frame.dropped else OUTPUT
    data = COUNT.pack(frame.dropped) if frame.dropped else frame.data
    stream = STREAMS.index(frame.stream)
    return FRAME.pack(kind, stream, frame.offset, frame.time_us, len(data)) + data


def decode_frames(body: bytes) -> list[Frame]:
    """The frames of a whole body. Raises Invalid when it is none of frames."""
    found: list[Frame] = []
    position = 0
    while position < len(body):
        if len(body) - position < FRAME.size:
            raise _broken(position, "it ends inside of a header")
        kind, stream, offset, time_us, length = FRAME.unpack_from(body, position)
        start = position + FRAME.size
        if kind not in (OUTPUT, DROPPED) or stream >= len(STREAMS):
            raise _broken(position, f"there is no kind {kind} of frame for stream {stream}")
        if length > MOST_FRAME or offset + length > MOST_OFFSET or time_us > MOST_OFFSET:
            raise _broken(position, f"its offset or its length ({length}) is too large")
        if start + length > len(body):
            raise _broken(position, "its data is cut off")
        found.append(_frame(kind, STREAMS[stream], offset, time_us, body[start : start + length]))
        position = start + length
    return found


def joined(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames of output as chunks: neighbours together, as far as a chunk may be long."""
    waiting: Frame | None = None
    for frame in frames:
        for at in range(0, len(frame.data), PIECE):
            part = Frame(
                frame.stream, frame.offset + at, frame.time_us, frame.data[at : at + PIECE]
            )
            if waiting is not None and _follows(waiting, part):
                waiting = Frame(
                    waiting.stream, waiting.offset, waiting.time_us, waiting.data + part.data
                )
                continue
            if waiting is not None:
                yield waiting
            waiting = part
    if waiting is not None:
        yield waiting


def encode_drop(dropped: Dropped, time_us: int) -> bytes:
    """A drop on the fabric; readers that do not know of it skip it."""
    number = STREAM_NUMBERS[dropped.stream]
    head = CHUNK_HEADER.pack(DROP_VERSION, number, dropped.offset, time_us)
    return head + COUNT.pack(dropped.count)


def decode_said(data: bytes) -> Chunk | Dropped:
    """What a message about a trace says. Raises Invalid."""
    if data[:1] != bytes([DROP_VERSION]):
        return decode_chunk(data)
    if len(data) != CHUNK_HEADER.size + COUNT.size:
        raise Invalid("undecodable", "A drop of a trace has another length.")
    _, stream, offset, _ = CHUNK_HEADER.unpack_from(data)
    if stream not in STREAM_NAMES:
        raise Invalid("undecodable", f"A drop of a trace names stream {stream}.")
    (count,) = COUNT.unpack_from(data, CHUNK_HEADER.size)
    return Dropped(stream=STREAM_NAMES[stream], offset=offset, count=count)


def _follows(before: Frame, part: Frame) -> bool:
    return (
        part.stream == before.stream
        and part.offset == before.offset + len(before.data)
        and len(before.data) + len(part.data) <= PIECE
        and 0 <= part.time_us - before.time_us <= TOGETHER_US
    )


def _frame(kind: int, stream: str, offset: int, time_us: int, data: bytes) -> Frame:
    if kind == OUTPUT:
        return Frame(stream, offset, time_us, data)
    if len(data) != COUNT.size:
        raise Invalid("bad_frames", f"A frame of kind {DROPPED} has {COUNT.size} bytes of data.")
    (count,) = COUNT.unpack(data)
    if not 0 < count <= MOST_COUNT:
        raise Invalid("bad_frames", f"A frame of kind {DROPPED} counts {count} bytes.")
    return Frame(stream, offset, time_us, b"", count)


def _broken(position: int, why: str) -> Invalid:
    return Invalid("bad_frames", f"The frame at byte {position} of the body is broken: {why}.")
