"""Who may call: a guard over every route but those that say they are public.

Theory. A route says in its `opt` who may call it; one that says nothing is for kind `api`.

* `KINDS`: the kinds of tokens that may call it.
* `FLEET`: it changes, or shows, what belongs to every namespace: only tokens of namespace `*`.
* `SCOPED`: it compares the name of its trace with the token's scope (`within_scope`); tokens with a
  scope may call no other.
* `QUERY_TOKEN`: it also takes its token from the query, as `access_token`: for browsers, whose
  EventSource and WebSocket send no headers.

What is in another namespace is not there: a `run_id` in a path is looked up here, among the runs
that the token sees, so that no route of runs can forget it; lists and names go through
`Principal.within` and `Principal.at` with the parameter `Namespace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from quarterdeck.api.cut import held_by
from quarterdeck.api.front import hidden_token
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.core.access import EVERY, MAX_NAMESPACE, NAMESPACE
from quarterdeck.errors import Denied
from quarterdeck.store.access import Principal

PUBLIC = "public"
NEEDS = "needs"
METRICS = "metrics"
KINDS = "kinds"
FLEET = "fleet"
SCOPED = "scoped"
QUERY_TOKEN = "query_token"

API = ("api",)
SENDERS = ("api", "send")
WATCHERS = ("api", "watch")

Namespace = Annotated[
    str | None,
    QueryParameter(
        name="namespace", min_length=1, max_length=MAX_NAMESPACE, pattern=f"^{NAMESPACE}$"
    ),
]
"""For tokens of namespace `*`: which one is meant. Others have but theirs to name."""


async def require_stage(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,
) -> None:
    """Litestar guard: the server has come as far as the route's `NEEDS` says: the record, unless
    it says otherwise; public routes need nothing."""
    default = Stage.OPENING if handler.opt.get(PUBLIC) else Stage.RECORD
    server: Server = connection.app.state.server
    await server.progress.until(handler.opt.get(NEEDS, default))


async def require_token(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,
) -> None:
    """Litestar guard: see the module's theory. The principal is left in `scope["auth"]`."""
    if handler.opt.get(PUBLIC):
        return
    server: Server = connection.app.state.server
    if handler.opt.get(METRICS) and server.metrics_open:
        return
    principal = await server.principal(_token(connection, handler))
    check_rights(principal, handler.opt)
    connection.scope["auth"] = principal
    held_by(cast("dict[str, Any]", connection.scope), principal.id)
    if "run_id" in connection.path_params:
        named = await server.runs.named(connection.path_params["run_id"], principal)
        # a new dictionary: Litestar gives the same one to every request of this path
        connection.scope["path_params"] = {**connection.path_params, "run_id": named}


def within_scope(principal: Principal, name: str) -> None:
    """Raises Denied when the token is for other names of traces."""
    if not principal.covers(name):
        raise Denied(
            "out_of_scope",
            f"This token is for traces named {principal.scope}, not for {name[:100]!r}: use "
            "another token.",
        )


def _token(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> str:
    given = connection.headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if not given and handler.opt.get(QUERY_TOKEN):
        token = hidden_token(connection.scope)
        if token:
            return token
    kind = " or ".join(kinds_of(handler.opt))
    raise Denied(
        "no_token",
        "This call came without a token: send `Authorization: Bearer TOKEN`, with one that "
        f"`qd token create --kind {kind}` made.",
    )


def kinds_of(opt: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of tokens that a route is for."""
    kinds: tuple[str, ...] = opt.get(KINDS, API)
    return kinds


def check_rights(principal: Principal, opt: Mapping[str, Any]) -> None:
    """Raises Denied when a route that says so in its `opt` is not for this token."""
    kinds = kinds_of(opt)
    if principal.kind not in kinds:
        raise Denied(
            "wrong_token",
            f"A token of kind {principal.kind} can't make this call: use one of kind "
            f"{' or '.join(kinds)} (`qd token create --kind {kinds[-1]}`).",
        )
    if principal.scope and not opt.get(SCOPED):
        raise Denied(
            "out_of_scope",
            f"This token is for traces named {principal.scope} and nothing else: use a token "
            "without a scope.",
        )
    if opt.get(FLEET) and principal.namespace != EVERY:
        raise Denied(
            "wrong_namespace",
            f"This call is about what every namespace shares, and this token is for namespace "
            f"{principal.namespace} only: use one that `qd token create --namespace '*'` made.",
        )
