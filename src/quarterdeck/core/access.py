"""Tokens as text: how they are spelled and taken apart. What they may do is decided elsewhere."""

from __future__ import annotations

import hashlib
import re

import msgspec

TOKEN = re.compile(r"qd_(?P<kind>[a-z]+)_(?P<id>[0-9a-z]{16})_(?P<secret>[0-9a-f]{32})")
SECRET_BYTES = 16


class Token(msgspec.Struct, frozen=True):
    """The parts of a token; only the hash of its secret is ever kept."""

    kind: str
    id: str
    secret_hash: str


def spell(kind: str, token_id: str, secret: bytes) -> str:
    """The token as its owner sees it, once: `qd_<kind>_<id>_<secret>`."""
    return f"qd_{kind}_{token_id}_{secret[:SECRET_BYTES].hex()}"


def parse(text: str) -> Token | None:
    """The parts of a token, None for anything that is not one."""
    found = TOKEN.fullmatch(text)
    if found is None:
        return None
    digest = hashlib.sha256(found["secret"].encode()).hexdigest()
    return Token(found["kind"], found["id"], digest)
