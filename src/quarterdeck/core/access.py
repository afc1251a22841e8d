"""Tokens as text: how they are spelled and taken apart. What they may do is decided elsewhere.

`qd_<kind>_<id>_<secret>`, and where the server shows a certificate of its own `_<fingerprint>`: the
SHA-256 of the certificate that the holder is to pin (docs/reference/tokens.md).
"""

from __future__ import annotations

import hashlib
import re

import msgspec

TOKEN = re.compile(
    r"(?P<bare>qd_(?P<kind>[a-z]+)_(?P<id>[0-9a-z]{16})_(?P<secret>[0-9a-f]{32}))"
    r"(?:_(?P<fingerprint>[0-9a-f]{64}))?"
)
SECRET_BYTES = 16


class Token(msgspec.Struct, frozen=True):
    """The parts of a token; only the hash of its secret is ever kept. `bare` is what is sent:
    the text without the fingerprint."""

    kind: str
    id: str
    secret_hash: str
    bare: str
    fingerprint: str = ""


def spell(kind: str, token_id: str, secret: bytes, *, fingerprint: str = "") -> str:
    """The token as its owner sees it, once."""
    pin = f"_{fingerprint}" if fingerprint else ""
    return f"qd_{kind}_{token_id}_{secret[:SECRET_BYTES].hex()}{pin}"


def parse(text: str) -> Token | None:
    """The parts of a token, None for anything that is not one."""
    found = TOKEN.fullmatch(text)
    if found is None:
        return None
    digest = hashlib.sha256(found["secret"].encode()).hexdigest()
    return Token(found["kind"], found["id"], digest, found["bare"], found["fingerprint"] or "")


def split(text: str) -> tuple[str, str]:
    """(what is sent, fingerprint or empty) of a token; a text that is none is sent as it is."""
    found = parse(text)
    return (text, "") if found is None else (found.bare, found.fingerprint)
