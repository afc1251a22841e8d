"""Which pages of other sites may use this server from a browser: the setting `cors_origins`.

A token is what admits; the origin only says which sites' scripts may send one from here.
"""

from __future__ import annotations

import re
import urllib.parse

import msgspec

from quarterdeck.errors import Invalid

ANY = "*"
_ORIGIN = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.*-]+)(:[0-9]{1,5})?")


def listed(text: str, setting: str) -> tuple[str, ...]:
    """The origins in a setting, separated by commas or spaces. Raises Invalid."""
    found = tuple(word.rstrip("/").lower() for word in re.split(r"[,\s]+", text) if word)
    for word in found:
        if word != ANY and _ORIGIN.fullmatch(word) is None:
            raise Invalid(
                "settings",
                f"{setting} holds {word[:200]!r}, which is no origin: write "
                "https://dash.example.org, with commas between several, or * for all.",
            )
    return found


def frame_ancestors(text: str) -> str:
    """What a page says of who may show it in a frame. Raises Invalid."""
    return " ".join(listed(text, "frame_ancestors")) or "'none'"


class Origins(msgspec.Struct, frozen=True):
    """The origins that are admitted beside the server's own."""

    allowed: tuple[str, ...] = ()

    def admits(self, origin: str | None, host: str, own_url: str = "") -> bool:
        """Whether a request may come from a page of this origin; programs send none. `host` is the
        request's Host, `own_url` where others reach this server."""
        if origin is None or ANY in self.allowed:
            return True
        origin = origin.lower()
        place = urllib.parse.urlsplit(origin).netloc
        own = urllib.parse.urlsplit(own_url).netloc.lower()
        return (bool(place) and place in (host.lower(), own)) or origin in self.allowed
