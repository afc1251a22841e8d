"""What stands before the routes: WebSockets and Socket.IO find their own handlers here.

Litestar answers plain HTTP only. A WebSocket goes to the handler that knows its path; one that is
turned away gets the problem document that an HTTP request would get.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec

from quarterdeck.errors import Denied, Invalid, NotFound, QuarterdeckError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UNAUTHENTICATED = ("no_token", "bad_token")
MOST_FIELDS = 100
HIDDEN = "hidden_token"
"""Key of a scope: the `access_token` that was taken out of its query (api/hide.py)."""


class Door:
    """Who answers WebSockets at `paths` (written as those of routes: `/x/{name}`), and with `plain`
    whatever else is asked for below them."""

    def __init__(self, paths: tuple[str, ...], app: App, *, plain: bool = False) -> None:
        self.paths = paths
        self.app = app
        self._plain = plain
        self._formats = [re.compile(_pattern(path) + "/?") for path in paths]

    def opens(self, scope: Scope) -> bool:
        """Whether a request is for this one."""
        path = str(scope["path"])
        if scope["type"] == "websocket":
            return self.names(path) is not None
        return self._plain and path.startswith(self.paths)

    def names(self, path: str) -> tuple[str, ...] | None:
        """What stands in a path where the format has names; None for another path."""
        found = next(filter(None, (one.fullmatch(path) for one in self._formats)), None)
        return None if found is None else found.groups()


def _pattern(path: str) -> str:
    parts = re.split(r"{\w+}", path.rstrip("/"))
    return "([^/]+)".join(re.escape(part) for part in parts)


class Front:
    """The ASGI application: each door is tried in turn, the rest are routes of HTTP."""

    def __init__(self, routes: App, doors: tuple[Door, ...]) -> None:
        self._routes = routes
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for door in self._doors:
            if door.opens(scope):
                await door.app(scope, receive, send)
                return
        if scope["type"] == "websocket":
            path = str(scope["path"])[:200]
            await turn_away(scope, send, NotFound("no_route", f"There is no WebSocket at {path}."))
            return
        await self._routes(scope, receive, send)


async def turn_away(scope: Scope, send: Send, error: QuarterdeckError) -> None:
    """Answer a request for a WebSocket, or a plain one, with a problem document."""
    unauthenticated = isinstance(error, Denied) and error.code in UNAUTHENTICATED
    status = 401 if unauthenticated else error.http_status
    body = msgspec.json.encode(
        {
            "type": f"urn:quarterdeck:{error.code}",
            "title": error.title,
            "status": status,
            "code": error.code,
            "detail": error.message,
        }
    )
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def header(scope: Scope, name: str) -> str | None:
    """A header of a request; the first one when it came more than once."""
    wanted = name.lower().encode()
    for key, value in scope["headers"]:
        if key.lower() == wanted:
            return cast("bytes", value).decode("latin-1")
    return None


def query(scope: Scope) -> Mapping[str, str]:
    """The query of a request; of repeated fields the last. Raises Invalid."""
    text = cast("bytes", scope["query_string"]).decode("latin-1")
    try:
        found = urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise Invalid("query", f"A query has at most {MOST_FIELDS} fields here.") from error
    return dict(found)


def bearer(scope: Scope) -> str:
    """The token that a request carries in its header or as `access_token`; empty without one."""
    scheme, _, token = (header(scope, "authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return hidden_token(scope)


def hidden_token(scope: Mapping[str, Any]) -> str:
    """The token that stood in the query of a request, or nothing."""
    return str(scope.get(HIDDEN, "")).strip()
