"""Messages between servers: what changed in the store they share."""

from __future__ import annotations

from quarterdeck.wire.codec import WireMessage


class Changed(WireMessage, frozen=True, kw_only=True):
    """`server` has committed changes of these topics (control/changes.py names them)."""

    server: str
    topics: tuple[str, ...]
