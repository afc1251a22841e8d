"""Tells telemetry of every request: the template of its route, its status, how long it took."""

from __future__ import annotations

from typing import Any, cast

from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from quarterdeck.control.main import Server
from quarterdeck.telemetry import RequestAnswered

UNKNOWN = "none"


def measured(app: Litestar, server: Server) -> ASGIApp:
    """The application, measured."""
    routes: dict[int, str] = {}
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                routes[id(handler)] = route.path_format

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        known = cast("dict[str, Any]", scope)
        if known["type"] != "http":
            await app(scope, receive, send)
            return
        began = server.clock.monotonic()
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, sent)
        finally:
            handler = known.get("route_handler")
            server.telemetry.emit(
                RequestAnswered(
                    method=known["method"],
                    route=routes.get(id(handler), UNKNOWN),
                    status=status,
                    seconds=server.clock.monotonic() - began,
                )
            )

    return call
