"""Routes of who may come in: tokens."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

from litestar import Request as HttpRequest
from litestar import Router, delete, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta

from quarterdeck.api.auth import Namespace
from quarterdeck.api.body import Body
from quarterdeck.api.shelf import Shelf
from quarterdeck.control.main import Server
from quarterdeck.core.access import NAMESPACE, SCOPE
from quarterdeck.core.install import install_line, join_line
from quarterdeck.store.access import KeptToken, Principal

Api = HttpRequest[None, Principal, State]


class TokenRequest(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`expires_s` from now; without it the token is valid until it is revoked. `namespace` is where
    it acts, `*` for everywhere. `scope` limits send and watch tokens to traces of some names (a
    glob). Of a join token: how many nodes may use it, and whether those wait until somebody
    approves them."""

    kind: Literal["api", "send", "watch", "join", "leaf"]
    namespace: Annotated[str, Meta(pattern=rf"^(\*|{NAMESPACE})$")] | None = None
    scope: Annotated[str, Meta(pattern=rf"^({SCOPE})?$")] = ""
    expires_s: float | None = None
    uses: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    approve: Literal["auto", "manual"] = "auto"


class TokenBody(Body, frozen=True, kw_only=True):
    """What is known of a token; its text is nowhere. `last_used` is up to a minute old. A `minted`
    one stands in the URL that a server told the sender of a trace."""

    id: str
    kind: str
    namespace: str
    scope: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    approve: str
    uses: int | None
    used: int
    last_used: datetime | None
    minted: bool


class NewTokenBody(TokenBody, frozen=True, kw_only=True):
    """`token` is shown this once; `url` is where the server thinks that others reach it. Of a join
    token: the lines for a shell that run an agent (`join`), or install one (`install`)."""

    token: str
    url: str
    join: str = ""
    install: str = ""


class TokenList(Body, frozen=True, kw_only=True):
    items: tuple[TokenBody, ...]


@post("/tokens")
async def create_token(
    data: JSONBody[TokenRequest],
    request: Api,
    server: NamedDependency[Server],
    shelf: NamedDependency[Shelf],
) -> NewTokenBody:
    """Make a token: `send` sends traces, `watch` reads, `api` lets programs call, `join` lets
    agents enrol, `leaf` leaf nodes of the fabric."""
    kept, text = await server.tokens.create(
        data.kind,
        by=request.auth,
        expires_s=data.expires_s,
        approve=data.approve,
        uses=data.uses,
        namespace=data.namespace,
        scope=data.scope,
    )
    joins = data.kind == "join" and bool(server.url)
    return NewTokenBody(
        token=text,
        url=server.url,
        join=join_line(server.url, text) if joins else "",
        install=await asyncio.to_thread(_install, server, shelf, text) if joins else "",
        **_fields(kept),
    )


@get("/tokens")
async def list_tokens(
    request: Api,
    server: NamedDependency[Server],
    minted: FromQuery[bool] = False,
    namespace: Namespace = None,
) -> TokenList:
    """Tokens, also expired and revoked ones, oldest first; `?minted=true` also those in the URLs
    that were told to senders of traces."""
    kept = await server.tokens.every(request.auth.within(namespace), minted=minted)
    return TokenList(items=tuple(TokenBody(**_fields(token)) for token in kept))


@delete("/tokens/{token:str}", status_code=200)
async def revoke_token(
    token: FromPath[str], request: Api, server: NamedDependency[Server]
) -> TokenBody:
    """Void a token; nodes that joined with it stay."""
    return TokenBody(**_fields(await server.tokens.revoke(token, by=request.auth)))


def _install(server: Server, shelf: Shelf, token: str) -> str:
    return install_line(server.url, token, server.settings.package, shelf.agents())


def _fields(token: KeptToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "kind": token.kind,
        "namespace": token.namespace,
        "scope": token.scope,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "approve": token.approve,
        "uses": token.uses,
        "used": token.used,
        "last_used": token.last_used,
        "minted": token.minted,
    }


router = Router(path="/v1", route_handlers=[create_token, list_tokens, revoke_token])
