"""Routes of traces: what a sender uploads (begin, segments, end), and the list of traces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated

from litestar import Request as HttpRequest
from litestar import Response, Router, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from msgspec import Meta

from quarterdeck.api.auth import KINDS, SCOPED, SENDERS, WATCHERS, Namespace, within_scope
from quarterdeck.api.body import Body, Request
from quarterdeck.api.describe import ALSO
from quarterdeck.control.main import Server
from quarterdeck.control.trace.service import Acked, NewTrace
from quarterdeck.core import traced
from quarterdeck.core.access import HOME
from quarterdeck.core.trace import End, Positions, Start, Trace
from quarterdeck.errors import Invalid
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Tx
from quarterdeck.store.trace import TraceFilter
from quarterdeck.wire.trace import MOST_BODY, decode_frames

LATEST = 4_102_444_800.0  # the year 2100: a time beyond is none

UPLOAD = {KINDS: SENDERS, SCOPED: True}
WATCH = {KINDS: WATCHERS, SCOPED: True}

Api = HttpRequest[None, Principal, State]
Key = Annotated[str, HeaderParameter(name="Trace-Key", max_length=64)]
Text = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Moment = datetime | Annotated[float, Meta(ge=0, le=LATEST)]
"""RFC 3339 with an offset, or seconds since 1970."""


class TraceRequest(Request, frozen=True, kw_only=True):
    """A command that is traced. `key` is chosen by who asks (32 hex digits), so that a repeat
    begins once; all that is sent later shows it in the header `Trace-Key`."""

    name: Text
    id: Text
    key: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    host: Text = ""
    user: Text = ""
    cwd: Text = ""
    command: tuple[str, ...] = ()
    title: Text = ""
    pid: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    started_at: Moment | None = None
    keep: bool = False
    tty: bool = False
    bare_url: bool = False


class AckedBody(Body, frozen=True, kw_only=True):
    """So many bytes of each stream need not be sent again."""

    stdout: int
    stderr: int


class BegunBody(Body, frozen=True, kw_only=True):
    """`url` is where to watch, with a token that may watch this name for a day."""

    trace: str
    name: str
    namespace: str
    id: str
    url: str
    acked: AckedBody
    state: str


class SegmentsBody(Body, frozen=True, kw_only=True):
    """What is there now; nothing more is taken once the state is `ended`."""

    acked: AckedBody
    state: str


class EndRequest(Request, frozen=True, kw_only=True):
    """How the command ended; `stdout` and `stderr` are how many bytes were sent in all."""

    code: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, Meta(ge=1, le=64)] | None = None
    message: Text = ""
    ended_at: Moment | None = None
    stdout: Count | None = None
    stderr: Count | None = None


class StateBody(Body, frozen=True, kw_only=True):
    state: str


class TraceBody(Body, frozen=True, kw_only=True):
    """`lost`: nothing is heard of its sender; it may come back. `dropped` bytes were not kept."""

    trace: str
    name: str
    id: str
    namespace: str
    state: str
    lost: bool
    kept: bool
    host: str
    user: str
    cwd: str
    command: tuple[str, ...]
    title: str
    pid: int
    tty: bool
    started_at: datetime
    ended_at: datetime | None
    code: int | None
    signal: int | None
    message: str
    bytes: AckedBody
    dropped: int
    url: str


class TraceList(Body, frozen=True, kw_only=True):
    """Newest first; `next` continues the list as `before`, null at its end."""

    items: tuple[TraceBody, ...]
    next: str | None


@post("/traces", opt={ALSO: (200,), **UPLOAD})
async def begin_trace(
    data: JSONBody[TraceRequest],
    request: Api,
    server: NamedDependency[Server],
    namespace: Namespace = None,
) -> Response[BegunBody]:
    """Begin a trace; it is recorded before the answer is sent. A repeat of its key is answered 200
    with what is there by now."""
    by = request.auth.at(namespace)
    within_scope(by, data.name)
    new = NewTrace(
        name=data.name,
        sender=data.id,
        key=data.key,
        namespace=by.namespace,
        kept=data.keep,
        start=Start(
            host=data.host,
            user=data.user,
            cwd=data.cwd,
            command=data.command,
            title=data.title,
            pid=data.pid,
            tty=data.tty,
            started_at=_time(data.started_at),
        ),
    )
    minted = server.tokens.mint_watch(by=by)

    def mint(tx: Tx, trace: Trace) -> None:
        minted.write(tx, trace.namespace, trace.name)

    begun = await server.traces.begin(new, by=by, also=None if data.bare_url else mint)
    trace = begun.trace
    within_scope(by, trace.name)
    if not data.bare_url:
        minted.told()
    body = BegunBody(
        trace=trace.id,
        name=trace.name,
        namespace=trace.namespace,
        id=trace.sender,
        url=watch_url(server, trace, "" if data.bare_url else minted.text),
        acked=_acked(begun.acked),
        state=trace.state.value,
    )
    return Response(body, status_code=201 if begun.made else 200)


@post(
    "/traces/{trace:str}/segments",
    status_code=200,
    request_max_body_size=MOST_BODY,
    opt=UPLOAD,
)
async def take_segments(
    trace: FromPath[str], request: Api, server: NamedDependency[Server], trace_key: Key
) -> SegmentsBody:
    """Send a part: frames of kind, stream, offset, time, length and data (docs/reference/tracing).

    An empty body says that the sender lives: send one every 2 s at least.
    """
    known = await _uploaded(server, trace, trace_key, request.auth)
    body = await _read(request.stream(), lambda: server.traces.alive(known.id))
    acked = await server.traces.take(known, decode_frames(body))
    return _segments(acked)


@post("/traces/{trace:str}/end", status_code=200, opt=UPLOAD)
async def end_trace(
    trace: FromPath[str],
    data: JSONBody[EndRequest],
    request: Api,
    server: NamedDependency[Server],
    trace_key: Key,
) -> StateBody:
    """Say how the command ended; the first word counts."""
    known = await _uploaded(server, trace, trace_key, request.auth)
    end = End(
        code=data.code, signal=data.signal, message=data.message, ended_at=_time(data.ended_at)
    )
    said = Positions(stdout=data.stdout or 0, stderr=data.stderr or 0)
    return StateBody(state=(await server.traces.end(known, end, said=said)).state.value)


@get("/traces", opt=WATCH)
async def list_traces(
    request: Api,
    server: NamedDependency[Server],
    name: Annotated[str, QueryParameter(max_length=100)] = "",
    before: Annotated[str | None, QueryParameter(max_length=16)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 50,
    namespace: Namespace = None,
) -> TraceList:
    """Traces, newest first, a page at a time; a token with a scope sees those that are in it."""
    by = request.auth.within(namespace)
    which = TraceFilter(namespace=by.namespace, name=name, before=before, limit=limit)
    found = await server.traces.page(which)
    last = found[-1].id if len(found) == limit else None
    seen = [one for one in found if by.covers(one.name)]
    return TraceList(items=tuple(trace_body(server, one) for one in seen), next=last)


@get("/traces/{trace:str}", opt=WATCH)
async def show_trace(
    trace: FromPath[str], request: Api, server: NamedDependency[Server]
) -> TraceBody:
    """One trace."""
    found = await server.traces.get(trace, namespace=request.auth.namespace)
    within_scope(request.auth, found.name)
    return trace_body(server, found)


async def _uploaded(server: Server, trace_id: str, key: str, by: Principal) -> Trace:
    """The trace that a sender goes on with. Raises NotFound and Denied."""
    trace = await server.traces.upload(trace_id, key, by=by)
    within_scope(by, trace.name)
    return trace


def trace_body(server: Server, trace: Trace) -> TraceBody:
    start, end = trace.start, trace.end or End()
    return TraceBody(
        trace=trace.id,
        name=trace.name,
        id=trace.sender,
        namespace=trace.namespace,
        state=trace.state.value,
        lost=trace.lost,
        kept=trace.kept,
        host=start.host,
        user=start.user,
        cwd=start.cwd,
        command=start.command,
        title=start.title,
        pid=start.pid,
        tty=start.tty,
        started_at=trace.started_at,
        ended_at=trace.ended_at,
        code=traced.exit_code(trace),
        signal=end.signal,
        message=end.message,
        bytes=_acked(trace.bytes),
        dropped=sum(one.count for one in trace.dropped) + trace.over.stdout + trace.over.stderr,
        url=watch_url(server, trace),
    )


def watch_url(server: Server, trace: Trace, token: str = "") -> str:
    """Where a trace is watched. A token stands in the fragment, which browsers send to nobody."""
    where = "" if trace.namespace == HOME else f"?namespace={trace.namespace}"
    return f"{server.url}/trace/{trace.name}{where}" + (f"#access_token={token}" if token else "")


async def _read(pieces: AsyncIterator[bytes], alive: Callable[[], None]) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        alive()
        if len(body) > MOST_BODY:
            raise Invalid("too_large", f"A part of a trace has at most {MOST_BODY} bytes.")
    return bytes(body)


def _segments(acked: Acked) -> SegmentsBody:
    return SegmentsBody(acked=_acked(acked.positions), state=acked.state.value)


def _acked(positions: Positions) -> AckedBody:
    return AckedBody(stdout=positions.stdout, stderr=positions.stderr)


def _time(given: datetime | float | None) -> datetime | None:
    """An aware UTC time. Raises Invalid."""
    if given is None:
        return None
    if not isinstance(given, datetime):
        return datetime.fromtimestamp(given, UTC)
    if given.tzinfo is None:
        raise Invalid("time", "A time needs its offset: write it as 2026-01-31T12:00:00Z.")
    return given.astimezone(UTC)


router = Router(
    path="/v1",
    route_handlers=[begin_trace, take_segments, end_trace, list_traces, show_trace],
)
