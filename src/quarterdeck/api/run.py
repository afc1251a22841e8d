"""Routes of runs: start, list, look, cancel, follow, read output."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Literal

from litestar import Request as HttpRequest
from litestar import Router, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter

from quarterdeck.api.auth import KINDS, NEEDS, QUERY_TOKEN, WATCHERS, Namespace
from quarterdeck.api.live import SERVER_SENT, frames
from quarterdeck.api.packed import MEDIA_TYPE, PACKED
from quarterdeck.api.plan import labels_of, plan_of
from quarterdeck.api.schema import (
    RunBody,
    RunDetail,
    RunPage,
    RunRequest,
    order_of,
    run_body,
    run_detail,
)
from quarterdeck.api.stream import Stream
from quarterdeck.control.changes import end_topic
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.control.run import NewRun
from quarterdeck.control.watch import Cursor
from quarterdeck.core.fold import NOT_PLACED
from quarterdeck.core.model import Attempt, Run
from quarterdeck.core.states import RunState
from quarterdeck.errors import Conflict, Invalid, NotFound
from quarterdeck.store.access import Principal
from quarterdeck.store.run import RunFilter

MAX_WAIT_S = 60.0
SECONDS = r"^[0-9]{1,6}(\.[0-9]{1,3})?s?$"
LABEL = r"^[A-Za-z0-9_./-]{1,63}=.{0,255}$"
TO_THE_END = 1 << 62
ALL_LINES = -1
LOOK_AGAIN_S = 1.0
NO_BUFFERING = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Api = HttpRequest[None, Principal, State]


async def no_null(
    connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
) -> None:
    """Litestar guard: what may be left out is left out; the word `null` would be taken for that."""
    for name in ("state", "nth", "length", "lines", "code"):
        if "null" in connection.query_params.getall(name, []):
            raise Invalid("invalid_request", f"{name}: `null` is no value of it; leave it out.")


@post("/runs")
async def start_run(
    data: JSONBody[RunRequest],
    request: Api,
    server: NamedDependency[Server],
    idempotency_key: Annotated[
        str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=128)
    ] = None,
    wait: Annotated[str | None, QueryParameter(max_length=16, pattern=SECONDS)] = None,
    namespace: Namespace = None,
) -> RunBody | RunDetail:
    """Start a run; it is recorded before the answer is sent.

    `?wait=30s` answers with its tasks when it has ended, or after that: give an idempotency key,
    so that a broken connection can be tried again.
    """
    patience_s = None if wait is None else _seconds(wait)
    run = await server.runs.create(new_run(data, request.auth.at(namespace), idempotency_key))
    if patience_s is None:
        return run_body(run)
    await _wait_for_end(server, run, patience_s, new=True)
    return run_detail(*await server.runs.detail(run.id))


def new_run(data: RunRequest, auth: Principal, key: str | None) -> NewRun:
    """What a request asks for, of somebody in one namespace. Raises Invalid."""
    return NewRun(
        target=data.target,
        order=order_of(data),
        title=data.title or _title(data),
        created_by=auth.id,
        namespace=auth.namespace,
        plan=plan_of(data),
        labels=labels_of(data),
        key=f"{auth.id}:{key}" if key else None,
        allow_empty=data.allow_empty,
    )


@get("/runs", opt={KINDS: WATCHERS})
async def list_runs(
    request: Api,
    server: NamedDependency[Server],
    run_state: Annotated[RunState | None, QueryParameter(name="state")] = None,
    origin: Annotated[str | None, QueryParameter(max_length=16)] = None,
    label: Annotated[str | None, QueryParameter(max_length=320, pattern=LABEL)] = None,
    before: Annotated[str | None, QueryParameter(max_length=16)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 50,
    namespace: Namespace = None,
) -> RunPage:
    """Runs, newest first, a page at a time; `label=KEY=VALUE` gives those that have it."""
    key, equals, value = (label or "").partition("=")
    which = RunFilter(
        namespace=request.auth.within(namespace).namespace,
        state=run_state,
        origin=origin,
        label=(key, value) if equals else None,
        before=before,
        limit=limit,
    )
    runs = await server.runs.page(which)
    last = runs[-1].id if len(runs) == limit else None
    return RunPage(items=tuple(run_body(run) for run in runs), next=last)


@get("/runs/{run_id:str}", opt={KINDS: WATCHERS})
async def show_run(
    run_id: FromPath[str],
    server: NamedDependency[Server],
    wait: Annotated[str | None, QueryParameter(max_length=16, pattern=SECONDS)] = None,
) -> RunDetail:
    """A run with its tasks and attempts. `?wait=30s` answers when it has ended, or after that."""
    if wait is not None:
        run = await server.runs.get(run_id)
        await _wait_for_end(server, run, _seconds(wait), new=False)
    return run_detail(*await server.runs.detail(run_id))


@post("/runs/{run_id:str}/cancel", status_code=202)
async def cancel_run(
    run_id: FromPath[str],
    server: NamedDependency[Server],
    nth: Annotated[int, QueryParameter(ge=0, le=1000)] = 0,
    node: Annotated[str | None, QueryParameter(min_length=1, max_length=255)] = None,
) -> RunBody:
    """Ask the run to stop: TERM to every process tree, KILL after the grace or when asked again.

    `?nth=1` makes a repeat harmless: it asks only when the run was asked fewer times before;
    0 asks in any case.
    `?node=` (a name or id) asks it of the task there alone.
    """
    if node is not None:
        return run_body(await server.requests.cancel(run_id, node, nth=nth or None))
    return run_body(await server.runs.cancel(run_id, nth=nth or None))


@get(
    "/runs/{run_id:str}/events",
    opt={NEEDS: Stage.WHOLE, KINDS: WATCHERS, QUERY_TOKEN: True},
    media_type="text/event-stream",
)
async def follow_run(
    run_id: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    follow: FromQuery[bool] = True,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Stream:
    """Everything about a run as server-sent events: past first, then live, until its end.

    `?follow=false` ends the stream once everything there is now was sent. Clients of ours ask for
    `application/vnd.quarterdeck.events`, which carries output as it is.
    """
    packed = MEDIA_TYPE in request.headers.get("accept", "")
    spelling = PACKED if packed else SERVER_SENT
    server.watching.crowd.check()
    run = await server.runs.get(run_id)
    cursor = Cursor.parse(run.id, last_event_id) if last_event_id else Cursor()
    seen = server.watching.watch(run.id, cursor, follow=follow, origin=run.origin)
    stream = frames(
        run,
        seen,
        cursor,
        services=server.services,
        drain=server.draining,
        crowd=server.watching.crowd,
        streaming=server.streaming,
        token=request.auth.id,
        spelling=spelling,
    )
    # what a handler says of its media type wins over the answer's own, but not over a header
    return Stream(stream, headers={**NO_BUFFERING, "content-type": spelling.media_type})


@get(
    "/runs/{run_id:str}/output",
    opt={NEEDS: Stage.WHOLE, KINDS: WATCHERS},
    media_type="application/octet-stream",
)
async def read_output(
    run_id: FromPath[str],
    server: NamedDependency[Server],
    node: Annotated[str | None, QueryParameter(min_length=1, max_length=255)] = None,
    stream: FromQuery[Literal["stdout", "stderr"]] = "stdout",
    offset: Annotated[int, QueryParameter(ge=0)] = 0,
    length: Annotated[int, QueryParameter(ge=0, le=TO_THE_END)] = TO_THE_END,
    lines: Annotated[int, QueryParameter(ge=ALL_LINES, le=10_000_000)] = ALL_LINES,
) -> Stream:
    """The exact bytes of one stream of one task: a range of bytes, or the last `lines` lines (-1:
    all)."""
    attempt = await _attempt(server, run_id, node)
    size = await server.output.size(attempt, stream)
    offset = max(offset, await server.output.begin(attempt, stream))
    if lines != ALL_LINES:
        offset = await server.output.last_lines(attempt, stream, lines)
    end = min(size, offset + length)
    headers = {**NO_BUFFERING, "Content-Length": str(max(0, end - offset))}
    pieces = server.output.pieces(attempt, stream, offset, end)
    return Stream(pieces, media_type="application/octet-stream", headers=headers)


async def _wait_for_end(server: Server, run: Run, seconds: float, *, new: bool) -> None:
    """Wait for the end of a run; one that is not `new` may have ended while it was read."""
    try:
        async with asyncio.timeout(seconds):
            with server.changes.watch(end_topic(run.id)) as poke:
                while run.state is not RunState.ENDED and not server.draining.is_set():
                    if new and await poke.wait(LOOK_AGAIN_S):
                        return
                    run, new = await server.runs.get(run.id), True
    except TimeoutError:
        return


async def _attempt(server: Server, run_id: str, node: str | None) -> Attempt:
    """The newest attempt of the task that `node` (name or id) names; the only task without it."""
    run, tasks, attempts = await server.runs.detail(run_id)
    found = [t for t in tasks if node is None or node in (t.node_name, t.node)]
    if not found:
        names = ", ".join(sorted({t.node_name or NOT_PLACED for t in tasks})[:8])
        raise NotFound("task_not_found", f"Run {run.id} has no task on {node!r}; it has: {names}.")
    if len(found) > 1:
        what = "several nodes" if node is None else f"several nodes named {node!r}"
        raise Conflict("ambiguous_node", f"Run {run.id} went to {what}: say which by id.")
    tries = [attempt for attempt in attempts if attempt.task == found[0].id]
    if not tries:
        where = found[0].node_name or NOT_PLACED
        raise NotFound("no_output", f"The task on {where} has not begun: no output.")
    return max(tries, key=lambda attempt: attempt.number)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)s?", text)
    if found is None:
        raise Invalid("wait", f"{text!r} is not a time to wait: write for instance 30s.")
    return min(float(found[1]), MAX_WAIT_S)


def _title(data: RunRequest) -> str:
    """What a list shows of a run that has no title: its command, or the script's first lines."""
    if data.argv:
        words = data.argv[2:3] if data.argv[:2] == ("/bin/sh", "-c") else data.argv
        return " ".join(" ".join(words).split())[:200]
    lines = [line for line in (data.script or "").splitlines() if not line.startswith("#!")]
    return " ".join(" ".join(lines).split())[:200] or "script"


router = Router(
    path="/v1",
    guards=[no_null],
    route_handlers=[start_run, list_runs, show_run, cancel_run, follow_run, read_output],
)
