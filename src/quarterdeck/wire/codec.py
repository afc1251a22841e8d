"""Encoding of everything that crosses: msgpack bodies, signed envelopes, binary output chunks.

An envelope names its receiver and the session it is for, so it is worth nothing anywhere else or
after a restart of that agent. No wall clock decides whether it is valid.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from quarterdeck.errors import Denied, Invalid

T = TypeVar("T")

CHUNK_VERSION = 1
CHUNK_HEADER = struct.Struct(">BBQQ")
STREAM_NUMBERS = {"stdout": 1, "stderr": 2}
STREAM_NAMES = {number: name for name, number in STREAM_NUMBERS.items()}

_encoder = msgspec.msgpack.Encoder()


class WireMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all wire messages. Fields are only ever added, always with a default."""


def encode(message: object) -> bytes:
    """msgpack bytes of a wire message."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[T] | Any) -> T:
    """The message in `data`. Raises Invalid when it is not one of `kind`."""
    try:
        result: T = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("undecodable", f"Not a {kind}: {error}.") from error
    return result


class Sealed(WireMessage, frozen=True, kw_only=True):
    """What the signature of an envelope covers."""

    to: str
    session: str
    id: str
    body: bytes


class Envelope(WireMessage, frozen=True, kw_only=True):
    """Encoded `Sealed` and the Ed25519 signature over exactly these bytes."""

    sealed: bytes
    signature: bytes


def seal(sealed: Sealed, sign: Callable[[bytes], bytes]) -> bytes:
    """An envelope on the wire."""
    inner = encode(sealed)
    return encode(Envelope(sealed=inner, signature=sign(inner)))


def open_envelope(
    data: bytes, *, to: str, session: str, verify: Callable[[bytes, bytes], bool]
) -> Sealed:
    """The content of an envelope for `to` in `session`.

    `verify(data, signature)` checks against the servers' keys. Raises Invalid (undecodable) or
    Denied with code `bad_signature`, `wrong_node` or `wrong_session`.
    """
    envelope: Envelope = decode(data, Envelope)
    if not verify(envelope.sealed, envelope.signature):
        raise Denied("bad_signature", "An order was not signed by a server of this fleet.")
    sealed: Sealed = decode(envelope.sealed, Sealed)
    if sealed.to != to:
        raise Denied("wrong_node", f"An order for {sealed.to!r} came to {to!r}.")
    if sealed.session != session:
        raise Denied("wrong_session", "An order was meant for another start of this agent.")
    return sealed


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of one stream of one attempt. `time_us` is when they were read, microseconds UTC."""

    stream: str
    offset: int
    time_us: int
    data: bytes


def encode_chunk(chunk: Chunk) -> bytes:
    """18 bytes of header (version, stream, offset, time), then the data."""
    data = bytearray(CHUNK_HEADER.size) + chunk.data
    put_chunk_header(data, chunk.stream, chunk.offset, chunk.time_us)
    return bytes(data)


def put_chunk_header(data: bytearray, stream: str, offset: int, time_us: int) -> None:
    """Make a chunk of output that stands behind room for the header."""
    CHUNK_HEADER.pack_into(data, 0, CHUNK_VERSION, STREAM_NUMBERS[stream], offset, time_us)


def decode_chunk(data: bytes) -> Chunk:
    """Raises Invalid for anything that is not a chunk of a version known here."""
    if len(data) < CHUNK_HEADER.size:
        raise Invalid("undecodable", f"A chunk of {len(data)} bytes is shorter than its header.")
    version, stream, offset, time_us = CHUNK_HEADER.unpack_from(data)
    if version != CHUNK_VERSION or stream not in STREAM_NAMES:
        raise Invalid("undecodable", f"Chunk version {version}, stream {stream} is not known.")
    return Chunk(STREAM_NAMES[stream], offset, time_us, data[CHUNK_HEADER.size :])
