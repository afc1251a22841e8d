"""What a leaf node of the fabric asks a server for, over HTTP, and what it gets."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec


class LeafEnrolment(msgspec.Struct, frozen=True, kw_only=True):
    """`signature` (base64 in JSON) is made with the leaf's own key over `leaf_part`. `tls_key`: PEM
    of a public key, to be certified for `names`; empty when no certificate is wanted. `seen`
    (`seen_of`) says whom the leaf admits now: the answer may wait some seconds for others."""

    public_key: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    token: Annotated[str, msgspec.Meta(max_length=512)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    tls_key: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    names: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=253)], ...], msgspec.Meta(max_length=64)
    ] = ()
    seen: Annotated[str, msgspec.Meta(max_length=64)] = ""


class LeafCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """Its pass until `expires_at` (seconds since 1970), whom to admit (public JWTs), where the
    fabric's WebSocket is (whole, or below the API's address), and its certificate if it asked."""

    name: str
    jwt: str
    expires_at: int
    operator_jwt: str
    account: str
    account_jwt: str
    system_account: str
    system_account_jwt: str
    websocket_urls: tuple[str, ...]
    certificate: str = ""


def seen_of(account_jwt: str) -> str:
    """Names a version of whom to admit."""
    return hashlib.sha256(account_jwt.encode()).hexdigest()


def leaf_part(public_key: str, token: str, tls_key: str) -> bytes:
    """The bytes a leaf signs."""
    return "\n".join(["quarterdeck-leaf", public_key, token, tls_key]).encode()
