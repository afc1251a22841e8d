"""What is in a JWT for nats-server: the reader that only tests need."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from quarterdeck.fabric.jwt import verify


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT; its signature must fit its issuer."""
    header, body, signature = token.split(".")
    claims = msgspec.json.decode(_bytes_of(body), type=dict[str, Any])
    assert verify(claims["iss"], f"{header}.{body}".encode(), _bytes_of(signature))
    return claims


def _bytes_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
