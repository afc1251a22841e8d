"""Traces without a client: `CMD | curl -T - -H "Authorization: Bearer TOKEN" URL/v1/trace/NAME`.

The body is the output, live; its end is the end of the trace, and a body that breaks off is a lost
one. While the connection stands the sender lives, however silent its command is: the clock for slow
senders stops for it (api/patience.py), and the kernel finds out whether its machine is there.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal, NamedTuple

from litestar import HttpMethod, Router, put, route
from litestar import Request as HttpRequest
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.params import FromPath, FromQuery, QueryParameter

from quarterdeck.api.auth import KINDS, NEEDS, SCOPED, SENDERS, Namespace, within_scope
from quarterdeck.api.body import Body
from quarterdeck.api.patience import ENDLESS
from quarterdeck.api.run import no_null
from quarterdeck.api.stream import voided
from quarterdeck.api.trace import watch_url
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.control.trace.plain import Plain
from quarterdeck.control.trace.service import NewTrace
from quarterdeck.core.trace import Start, Trace
from quarterdeck.errors import Denied, Unavailable
from quarterdeck.service import entropy
from quarterdeck.store.access import Principal

ALIVE_S = 1.0
UPLOAD = {KINDS: SENDERS, SCOPED: True, NEEDS: Stage.WHOLE}

Api = HttpRequest[None, Principal, State]
Sender = Annotated[str, QueryParameter(name="id", max_length=255)]
Title = Annotated[str, QueryParameter(max_length=4096)]
Code = Annotated[int | None, QueryParameter(ge=0, le=255)]


class UploadedBody(Body, frozen=True, kw_only=True):
    """A trace that was uploaded whole."""

    trace: str
    name: str
    id: str
    state: str
    url: str


class Wish(NamedTuple):
    """What the query says of an upload."""

    name: str
    sender: str
    title: str
    keep: bool
    code: int | None
    stream: str


@route(
    "/trace/{name:str}",
    http_method=[HttpMethod.PUT, HttpMethod.POST],
    status_code=201,
    request_max_body_size=None,
    opt=UPLOAD,
    guards=[no_null],
)
async def upload_trace(
    name: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    sender: Sender = "",
    title: Title = "",
    keep: FromQuery[bool] = False,
    code: Code = None,
    stream: FromQuery[Literal["stdout", "stderr"]] = "stdout",
    namespace: Namespace = None,
) -> UploadedBody:
    """Trace what is uploaded, live: the body is the output of a command, its end the end of it.

    `id` names the sender (default: its address), `code` is the exit code to record.
    """
    wish = Wish(name, sender, title, keep, code, stream)
    return await _taken(request, server, wish, namespace)


async def _taken(request: Api, server: Server, wish: Wish, namespace: str | None) -> UploadedBody:
    by = request.auth.at(namespace)
    within_scope(by, wish.name)
    new = NewTrace(
        name=wish.name,
        sender=wish.sender or (request.client.host if request.client else "unknown"),
        key=entropy(16).hex(),
        namespace=by.namespace,
        kept=wish.keep,
        start=Start(title=wish.title),
    )
    begun = await server.traces.begin(new, by=by)
    plain = Plain(server.traces, begun.trace, wish.stream, server.clock)
    trace = await _upload(request, server, plain, wish.code)
    return UploadedBody(
        trace=trace.id,
        name=trace.name,
        id=trace.sender,
        state=trace.state.value,
        url=watch_url(server, trace),
    )


async def _upload(request: Api, server: Server, plain: Plain, code: int | None) -> Trace:
    """Feed the body into the trace until it ends. Raises Denied when the token is voided."""
    request.scope["state"][ENDLESS] = True
    name = plain.trace.id
    with server.streaming.by(request.auth.id) as cut:
        feeding = server.services.spawn(_feed(request, plain), f"upload {name}")
        others = [
            server.services.spawn(cut.wait(), f"token of upload {name}"),
            server.services.spawn(server.draining.wait(), f"drain of upload {name}"),
        ]
        try:
            while not (feeding.done() or any(one.done() for one in others)):
                server.traces.alive(name)
                await asyncio.wait(
                    [feeding, *others], timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
            whole = feeding.done() and feeding.result()
        finally:
            for task in (feeding, *others):
                task.cancel()
            await asyncio.gather(feeding, *others, return_exceptions=True)
        if whole:
            return await plain.end(code)
        await plain.broken()
        if cut.is_set():
            raise voided()
        raise Unavailable(
            "upload_broken", f"The upload of trace {name} broke off: begin another one."
        )


async def _feed(request: Api, plain: Plain) -> bool:
    """Whether the body came to its end."""
    try:
        async for piece in request.stream():
            if piece:
                await plain.take(piece)
    except (HTTPException, Denied):  # the caller has gone, or its token counts no more
        return False
    return True


@put("/trace/{name:str}", status_code=201, request_max_body_size=None, opt=UPLOAD, guards=[no_null])
async def upload_short(
    name: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    sender: Sender = "",
    title: Title = "",
    keep: FromQuery[bool] = False,
    code: Code = None,
    stream: FromQuery[Literal["stdout", "stderr"]] = "stdout",
    namespace: Namespace = None,
) -> UploadedBody:
    """The same at the address where people watch: `curl -T - URL/trace/NAME`."""
    wish = Wish(name, sender, title, keep, code, stream)
    return await _taken(request, server, wish, namespace)


router = Router(path="/v1", route_handlers=[upload_trace])
