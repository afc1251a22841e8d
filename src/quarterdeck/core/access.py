"""Tokens: how they are spelled and taken apart, which kinds there are, and what their limits say.

`qd_<kind>_<id>_<secret>`, and where the server shows a certificate of its own `_<fingerprint>`: the
SHA-256 of the certificate that the holder is to pin (docs/reference/tokens.md).
Which routes a kind may call stands with each route (api/auth.py).
"""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatchcase

import msgspec

from quarterdeck.errors import Invalid

TOKEN = re.compile(
    r"(?P<bare>qd_(?P<kind>[a-z]+)_(?P<id>[0-9a-z]{16})_(?P<secret>[0-9a-f]{32}))"
    r"(?:_(?P<fingerprint>[0-9a-f]{64}))?"
)
SECRET_BYTES = 16

KINDS = ("api", "send", "watch", "join", "leaf")
FLEET_KINDS = ("join", "leaf")
"""They let machines in, which belong to every namespace."""
SCOPED_KINDS = ("send", "watch")
"""They may be for some names of traces only."""

EVERY = "*"
"""The namespace of a token that acts in all of them."""
HOME = "default"
"""Where such a token acts when nobody says where."""
NAMESPACE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MAX_NAMESPACE = 64
SCOPE = r"[A-Za-z0-9._\-*?\[\]!]{1,100}"


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


def check_namespace(text: str) -> str:
    """The name of a namespace. Raises Invalid."""
    if re.fullmatch(NAMESPACE, text) is None:
        raise Invalid(
            "namespace",
            f"{text[:80]!r} can't be the name of a namespace: use up to {MAX_NAMESPACE} letters, "
            "digits, dots, dashes and underscores, a letter or digit first.",
        )
    return text


def check_scope(text: str) -> str:
    """A glob of names of traces. Raises Invalid."""
    if re.fullmatch(SCOPE, text) is None:
        raise Invalid(
            "scope",
            f"{text[:80]!r} can't be a scope: write a name of traces, or a glob of them "
            "(`deploy-*`), of up to 100 characters.",
        )
    return text


def covers(scope: str, name: str) -> bool:
    """Whether a scope has room for a name: an empty one for all, a glob for what it fits whole."""
    return not scope or fnmatchcase(name, scope)
