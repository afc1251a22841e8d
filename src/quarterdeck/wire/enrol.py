"""Enrolment over HTTP: what a node sends to be admitted or renewed, and what it gets."""

from __future__ import annotations

from typing import Annotated

import msgspec

FABRIC_PATH = "/fabric"
"""Below the address of the API: the fabric inside a WebSocket."""

# The code of the answer to a node that is known but not approved: it gets no pass, and asks again.
AWAITS_APPROVAL = "awaits_approval"


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """`signature` (base64 in JSON) is the node's own over `signed_part`; `token` is empty on a
    renewal. `via` is the host that the node reached the server at."""

    public_key: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    token: Annotated[str, msgspec.Meta(max_length=512)] = ""
    via: Annotated[str, msgspec.Meta(max_length=255)] = ""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Its id, its pass to the fabric until `expires_at` (seconds since 1970), and the public keys
    that sign its orders. `fabric_ca` (PEM) is what verifies the fabric; empty: the machine's own
    authorities. `websocket_urls` lead to the fabric too: whole, or below the API's address."""

    node: str
    jwt: str
    fabric_urls: tuple[str, ...]
    order_keys: tuple[str, ...]
    expires_at: int
    fabric_ca: str = ""
    websocket_urls: tuple[str, ...] = ()


def signed_part(public_key: str, name: str, token: str) -> bytes:
    """The bytes a node signs when it enrols or renews: worthless without its private key."""
    return "\n".join(["quarterdeck-enrol", public_key, name, token]).encode()
