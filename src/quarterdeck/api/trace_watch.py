"""Watching a name of traces: server-sent events, and a WebSocket at the same path.

Both tell the same events and resume from the same cursor. Who may watch a name is decided in
`admitted`, for all ways in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec
from litestar import Request as HttpRequest
from litestar import Router, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter

from quarterdeck.api.auth import (
    KINDS,
    NEEDS,
    QUERY_TOKEN,
    SCOPED,
    WATCHERS,
    Namespace,
    check_rights,
    within_scope,
)
from quarterdeck.api.describe import EVENTS
from quarterdeck.api.front import Door, Receive, Scope, Send, bearer, header, query, turn_away
from quarterdeck.api.origins import Origins
from quarterdeck.api.stream import Stream, streamed
from quarterdeck.api.trace_events import (
    OPENING,
    STILL_HERE,
    message,
    server_sent,
    trace_event,
)
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.core.trace import check_name
from quarterdeck.core.trace_cursor import Cursor
from quarterdeck.errors import Denied, Invalid, QuarterdeckError
from quarterdeck.store.access import Principal

NO_BUFFERING = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
WATCHING = {NEEDS: Stage.WHOLE, KINDS: WATCHERS, SCOPED: True, QUERY_TOKEN: True}
YES = ("1", "true", "yes")
NORMAL, GOING_AWAY = 1000, 1012

Api = HttpRequest[None, Principal, State]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which traces somebody wants to watch; `sender` is empty for all of the name."""

    namespace: str
    name: str
    sender: str = ""
    after: str = ""
    follow: bool = True
    forever: bool = False


def admitted(principal: Principal, name: str, namespace: str | None) -> str:
    """The namespace in which a token watches a name. Raises Denied and Invalid."""
    check_name(name)
    check_rights(principal, WATCHING)
    within_scope(principal, name)
    return principal.at(namespace).namespace


def told(server: Server, wish: Wish, *, socket: bool) -> AsyncGenerator[bytes]:
    """The events of a wish on the wire."""
    cursor = Cursor.parse(wish.after) if wish.after else Cursor()
    spell = message if socket else server_sent

    async def events() -> AsyncGenerator[bytes]:
        seen = server.trace_watching.watch(
            wish.namespace,
            wish.name,
            cursor,
            sender=wish.sender,
            follow=wish.follow,
            forever=wish.forever,
        )
        async with aclosing(seen):
            async for one in seen:
                yield spell(trace_event(one), cursor)

    return events()


@get(
    "/trace/{name:str}/stream",
    opt={EVENTS: "TraceEvent", **WATCHING},
    media_type="text/event-stream",
)
async def watch_traces(
    name: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    node: Annotated[str, QueryParameter(max_length=255)] = "",
    after: Annotated[str | None, QueryParameter(max_length=60_000)] = None,
    follow: FromQuery[bool] = True,
    forever: FromQuery[bool] = False,
    namespace: Namespace = None,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Stream:
    """Everything that is traced under a name as server-sent events: the window first, then live.

    A name that nobody traces under is waited for. The stream ends 2 s after all have ended;
    `?forever=true` stays, `?follow=false` ends it once everything there is now was sent. `?node=`
    (the id of a sender) shows one of them.
    """
    server.trace_watching.crowd.check()
    wish = Wish(
        namespace=admitted(request.auth, name, namespace),
        name=name,
        sender=node,
        after=last_event_id or after or "",
        follow=follow,
        forever=forever,
    )
    pieces = streamed(
        told(server, wish, socket=False),
        what=f"traces {name}",
        opening=OPENING,
        still_here=STILL_HERE,
        trouble=lambda error: server_sent(error, None),
        services=server.services,
        drain=server.draining,
        crowd=server.trace_watching.crowd,
        streaming=server.streaming,
        token=request.auth.id,
    )
    return Stream(pieces, headers={**NO_BUFFERING, "content-type": "text/event-stream"})


class TraceSockets:
    """The WebSocket of a name: one event a message, each with its `cursor`."""

    def __init__(self, server: Server, origins: Origins) -> None:
        self._server = server
        self._origins = origins
        self.door = Door(("/v1/trace/{name}/stream",), self._answer)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # what asks for the connection
        server = self._server
        try:
            wish, principal = await self._wish(scope)
            events = told(server, wish, socket=True)
        except QuarterdeckError as error:
            await turn_away(scope, send, error)
            return
        await send({"type": "websocket.accept"})
        over = asyncio.Event()
        waiting = [
            server.services.spawn(_until_gone(receive, over), "viewer of traces"),
            server.services.spawn(_until(server.draining, over), "drain of viewer of traces"),
        ]
        pieces = streamed(
            events,
            what=f"traces {wish.name}",
            opening=b"",
            still_here=b"",  # WebSockets have pings of their own
            trouble=lambda error: message(error, None),
            services=server.services,
            drain=over,
            crowd=server.trace_watching.crowd,
            streaming=server.streaming,
            token=principal.id,
        )
        try:
            async with aclosing(pieces) as stream:
                async for piece in stream:
                    if piece:
                        await send({"type": "websocket.send", "text": piece.decode()})
            code = GOING_AWAY if server.draining.is_set() else NORMAL
            await send({"type": "websocket.close", "code": code})
        except OSError:
            return  # the viewer is gone
        finally:
            for task in waiting:
                task.cancel()

    async def _wish(self, scope: Scope) -> tuple[Wish, Principal]:
        server = self._server
        await server.progress.until(Stage.WHOLE)
        if not self._origins.admits(
            header(scope, "origin"), header(scope, "host") or "", server.url
        ):
            raise Denied(
                "origin",
                "Pages of this site may not watch here: add its origin to `cors_origins`.",
            )
        token = bearer(scope)
        if not token:
            raise Denied(
                "no_token",
                "This call came without a token: send `Authorization: Bearer TOKEN`, or "
                "`?access_token=TOKEN`.",
            )
        principal = await server.principal(token)
        given = query(scope)
        (name,) = self.door.names(scope["path"]) or ("",)
        server.trace_watching.crowd.check()
        node = given.get("node", "")
        if len(node) > 255:
            raise Invalid("node", "The id of a sender has at most 255 characters.")
        wish = Wish(
            namespace=admitted(principal, name, given.get("namespace")),
            name=name,
            sender=node,
            after=given.get("after", ""),
            follow=given.get("follow", "true").lower() in YES,
            forever=given.get("forever", "").lower() in YES,
        )
        return wish, principal


async def _until_gone(receive: Receive, over: asyncio.Event) -> None:
    """What a viewer says is not listened to, but for its leaving."""
    while (await receive())["type"] != "websocket.disconnect":
        continue
    over.set()


async def _until(event: asyncio.Event, over: asyncio.Event) -> None:
    await event.wait()
    over.set()


router = Router(path="/v1", route_handlers=[watch_traces])
