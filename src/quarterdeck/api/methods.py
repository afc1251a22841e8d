"""Which methods a path has, for whoever asked with another one (RFC 9110, 15.5.6)."""

from __future__ import annotations

from collections.abc import Iterable

from litestar.routes import HTTPRoute
from litestar.routes.base import BaseRoute


def allowed(routes: Iterable[BaseRoute], path: str) -> str:
    """The header `Allow` of a path that some route has, as `GET, OPTIONS`."""
    asked = [part for part in path.split("/") if part]
    found = {
        tuple(isinstance(part, str) for part in route.path_components): route.methods
        for route in routes
        if isinstance(route, HTTPRoute) and _fits(route, asked)
    }
    # where a word and a parameter are both possible, the word is what the path means
    return ", ".join(sorted(found[max(found)])) if found else ""


def _fits(route: HTTPRoute, asked: list[str]) -> bool:
    own = route.path_components
    return len(own) == len(asked) and all(
        part == word for part, word in zip(own, asked, strict=True) if isinstance(part, str)
    )
