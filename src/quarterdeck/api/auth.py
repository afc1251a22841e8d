"""Who may call: a guard over all of `/v1` but the routes that say they are public."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.errors import Denied

PUBLIC = "public"
NEEDS = "needs"
METRICS = "metrics"


async def require_stage(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,
) -> None:
    """Litestar guard: the server has come as far as the route's `NEEDS` says: the record, unless
    it says otherwise; public routes need nothing."""
    default = Stage.OPENING if handler.opt.get(PUBLIC) else Stage.RECORD
    server: Server = connection.app.state.server
    await server.progress.until(handler.opt.get(NEEDS, default))


async def require_api_token(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,
) -> None:
    """Litestar guard: a bearer token of kind `api`, unless the route is marked public.

    The principal is left in `scope["auth"]`.
    """
    if handler.opt.get(PUBLIC):
        return
    server: Server = connection.app.state.server
    if handler.opt.get(METRICS) and server.metrics_open:
        return
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Denied(
            "no_token",
            "This call came without a token: send `Authorization: Bearer TOKEN`, with one that "
            "`qd token create --kind api` made.",
        )
    principal = await server.principal(token.strip())
    if principal.kind != "api":
        raise Denied(
            "wrong_token",
            f"A token of kind {principal.kind!r} can't call the API: use one that "
            "`qd token create --kind api` made.",
        )
    connection.scope["auth"] = principal
