"""What all bodies of HTTP are made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0, le=366 * 86_400)]


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is asked: an unknown field is an error, never ignored."""
