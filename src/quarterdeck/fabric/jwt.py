"""Nkeys and the JWTs that nats-server trusts: encoding, signing, nothing about who may do what."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from typing import Any

import msgspec
import nacl.exceptions
import nacl.signing
import nkeys

from quarterdeck.errors import Invalid
from quarterdeck.service import entropy

_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_ENCODED_KEY = re.compile(r"[A-Z2-7]{56}")
_KEY_BYTES = 35  # one of kind, 32 of Ed25519, two of CRC


class Kind(enum.IntEnum):
    """The first byte of an nkey: what it is the key of (O..., A..., U... when encoded)."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


class NKey:
    """An Ed25519 key pair in the encoding of NATS."""

    def __init__(self, seed: str) -> None:
        """Raises `Invalid` when `seed` is not an nkey seed."""
        try:
            self._pair = nkeys.from_seed(bytearray(seed.encode()))
            self.public_key: str = self._pair.public_key.decode()
        except (nkeys.NkeysError, ValueError, TypeError) as error:
            raise Invalid("bad_key", "The text is not an nkey seed (SU..., SA... or SO...).") from (
                error
            )
        self.seed = seed

    @classmethod
    def create(cls, kind: Kind) -> NKey:
        """A new key from the random source of the operating system."""
        return cls(nkeys.encode_seed(entropy(32), int(kind)).decode())

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature."""
        signature: bytes = self._pair.sign(data)
        return signature

    def __repr__(self) -> str:
        return f"NKey({self.public_key})"


def _raw_public_key(public_key: str, kind: Kind | None) -> bytes | None:
    if not _ENCODED_KEY.fullmatch(public_key):
        return None
    try:
        decoded = base64.b32decode(public_key.encode())
    except binascii.Error:
        return None
    body, check = decoded[:-2], int.from_bytes(decoded[-2:], "little")
    if len(decoded) != _KEY_BYTES or nkeys.crc16(bytearray(body)) != check:
        return None
    if kind is not None and body[0] != kind:
        return None
    return body[1:]


def is_public_key(public_key: str, kind: Kind) -> bool:
    """Whether the text is a public nkey of this kind, check sum included."""
    return _raw_public_key(public_key, kind) is not None


def verify(public_key: str, data: bytes, signature: bytes) -> bool:
    """Whether the holder of the (encoded) public key signed these bytes. Never raises."""
    raw = _raw_public_key(public_key, None)
    if raw is None or len(signature) != 64:
        return False
    try:
        nacl.signing.VerifyKey(raw).verify(data, signature)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def encode(signer: NKey, claims: dict[str, Any]) -> str:
    """Sign claims; `iss` and `jti` (hash of all other claims) are filled in."""
    claims = {**claims, "iss": signer.public_key}
    digest = hashlib.new("sha512_256", msgspec.json.encode(claims, order="sorted")).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    text = _part(_HEADER) + b"." + _part(msgspec.json.encode(claims, order="sorted"))
    return (text + b"." + _part(signer.sign(text))).decode()
