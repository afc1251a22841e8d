"""The bodies of HTTP: what goes in and out of `/v1`, and how core records become them."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from quarterdeck.api.body import Body, Request, Seconds
from quarterdeck.api.plan import PlanBody, PlanRequest, plan_body
from quarterdeck.core.model import (
    DEFAULT_GRACE_S,
    DEFAULT_MAX_OUTPUT,
    DEFAULT_START_TIMEOUT_S,
    MAX_ORDER_BYTES,
    Attempt,
    Counts,
    Order,
    Run,
    SignalOrder,
    Snapshot,
    StreamEnd,
    Task,
    Terminal,
)
from quarterdeck.errors import Invalid

Base64 = Annotated[str, Meta(max_length=MAX_ORDER_BYTES // 3 * 4 + 4)]
MAX_TEXTS = 10_000


class PtyRequest(Request, frozen=True, kw_only=True):
    """A terminal for the command: its size, and what it calls itself."""

    rows: Annotated[int, Meta(ge=0, le=65_535)] = 24
    columns: Annotated[int, Meta(ge=0, le=65_535)] = 80
    term: Annotated[str, Meta(min_length=1, max_length=64)] = "xterm-256color"


class RunRequest(PlanRequest, frozen=True, kw_only=True):
    """A run to be started: a target, and exactly one of `argv`, `script` and `script_b64`."""

    target: Annotated[str, Meta(min_length=1, max_length=64_000)]
    argv: Annotated[tuple[str, ...], Meta(max_length=MAX_TEXTS)] = ()
    script: Annotated[str, Meta(max_length=MAX_ORDER_BYTES)] | None = None
    script_b64: Base64 | None = None
    args: Annotated[tuple[str, ...], Meta(max_length=MAX_TEXTS)] = ()
    env: Annotated[dict[str, str], Meta(max_length=MAX_TEXTS)] = {}
    cwd: Annotated[str, Meta(max_length=4096)] | None = None
    stdin_b64: Base64 = ""
    timeout_s: Seconds = 0.0
    grace_s: Seconds = DEFAULT_GRACE_S
    max_output: Annotated[int, Meta(ge=0, le=1 << 50, description="Bytes; 0: no limit.")] = (
        DEFAULT_MAX_OUTPUT
    )
    leftovers: Literal["keep", "kill"] = "keep"
    lost_after_s: Seconds = 0.0
    on_timeout: Literal["stop", "alert"] = "stop"
    user: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    pty: PtyRequest | None = None
    umask: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] | None = None
    start_timeout_s: Seconds = DEFAULT_START_TIMEOUT_S
    title: Annotated[str, Meta(max_length=1000)] = ""
    allow_empty: bool = False


class StreamBody(Body, frozen=True, kw_only=True):
    bytes: int
    sha256: str
    dropped: int


class SignalBody(Body, frozen=True, kw_only=True):
    """One signal to an attempt: `wanted`, `recorded` by its node, or `sent` to the process."""

    number: int
    signal: int
    tree: bool
    at: datetime
    state: Literal["wanted", "recorded", "sent"]


class AttemptBody(Body, frozen=True, kw_only=True):
    """One try. `exit_code` and `signal` are the process's own; it is not sent to its node before
    `not_before`; `overdue` is one that was to raise an alert at its timeout, and did."""

    id: str
    number: int
    node_id: str
    not_before: datetime | None
    overdue: bool
    state: str
    outcome: str | None
    revision: int
    exit_code: int | None
    signal: int | None
    reason: str | None
    error: str | None
    accepted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    stdout: StreamBody
    stderr: StreamBody
    survivors: int
    signals: tuple[SignalBody, ...]
    gone_at: datetime | None
    sealed: bool


class TaskBody(Body, frozen=True, kw_only=True):
    """A run's part on one node. `node` is its display name, `node_state` how it was when the target
    was resolved."""

    id: str
    node: str
    node_id: str
    node_state: str
    position: int
    state: str
    outcome: str | None
    exit_code: int | None
    reason: str = ""
    error: str | None = None
    attempts: tuple[AttemptBody, ...] = ()


class CountsBody(Body, frozen=True, kw_only=True):
    total: int
    pending: int
    queued: int
    running: int
    retrying: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    lost: int
    kill_failed: int
    start_timeout: int
    skipped: int


class RunBody(Body, frozen=True, kw_only=True):
    """A run without its tasks. With a `halt` nothing of it starts any more, `reason` says why."""

    id: str
    state: str
    outcome: str | None
    target: str
    title: str
    origin: str
    parent: str | None
    namespace: str
    created_at: datetime
    created_by: str
    labels: dict[str, str]
    started_at: datetime | None
    ended_at: datetime | None
    deadline_at: datetime | None
    halt: str | None
    reason: str
    counts: CountsBody
    version: int


class RunDetail(RunBody, frozen=True, kw_only=True):
    """A run with its tasks and their attempts."""

    plan: PlanBody
    tasks: tuple[TaskBody, ...]


class RunPage(Body, frozen=True, kw_only=True):
    """Runs, newest first; `next` continues the list as `before`, null at its end."""

    items: tuple[RunBody, ...]
    next: str | None


class Problem(Body, frozen=True, kw_only=True):
    """RFC 9457. `code` is a stable word for programs, `detail` a sentence for people; `position`
    (from 0) is where in a target the trouble is, `acked` how far a trace has come."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    position: int | None = None
    acked: dict[str, int] | None = None


def order_of(request: RunRequest) -> Order:
    """The order in a request. Raises Invalid for what can't be executed anywhere."""
    script = _script(request)
    if bool(request.argv) == (script is not None):
        raise Invalid("order", "Give exactly one of `argv`, `script` and `script_b64`.")
    if script is not None and not script.strip():
        raise Invalid("empty_script", "The script is empty: there is nothing to run.")
    stdin = _bytes("stdin_b64", request.stdin_b64)
    texts = (*request.argv, *request.args, *request.env, *request.env.values(), request.cwd or "")
    size = len(script or b"") + len(stdin) + sum(len(text.encode()) for text in texts)
    if size > MAX_ORDER_BYTES:
        raise Invalid(
            "order_too_large",
            f"Script, arguments and stdin have {size} bytes together; at most {MAX_ORDER_BYTES} "
            "can be sent. Let the script fetch large data itself.",
        )
    _check_texts(request)
    return Order(
        argv=request.argv,
        script=script or b"",
        args=request.args,
        env=request.env,
        cwd=request.cwd,
        stdin=stdin,
        timeout_s=request.timeout_s,
        grace_s=request.grace_s,
        max_output=request.max_output,
        leftovers=request.leftovers,
        lost_after_s=request.lost_after_s,
        on_timeout=request.on_timeout,
        user=request.user,
        pty=None if request.pty is None else Terminal(**msgspec.structs.asdict(request.pty)),
        umask=None if request.umask is None else int(request.umask, 8),
        start_timeout_s=request.start_timeout_s,
    )


def run_body(run: Run) -> RunBody:
    return RunBody(**_run_fields(run))


def run_detail(run: Run, tasks: list[Task], attempts: list[Attempt]) -> RunDetail:
    by_task: dict[str, list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.number):
        by_task.setdefault(attempt.task, []).append(attempt)
    bodies = tuple(task_body(task, by_task.get(task.id, [])) for task in tasks)
    return RunDetail(plan=plan_body(run.plan), tasks=bodies, **_run_fields(run))


def task_body(task: Task, attempts: list[Attempt]) -> TaskBody:
    newest = attempts[-1].snapshot if attempts else None
    return TaskBody(
        id=task.id,
        node=task.node_name,
        node_id=task.node,
        node_state=task.node_state,
        position=task.position,
        state=task.state.value,
        outcome=task.outcome.value if task.outcome else None,
        exit_code=task.exit_code,
        reason=task.reason,
        error=newest.error if newest else None,
        attempts=tuple(attempt_body(attempt) for attempt in attempts),
    )


def attempt_body(attempt: Attempt) -> AttemptBody:
    seen = attempt.snapshot
    return AttemptBody(
        id=attempt.id,
        number=attempt.number,
        node_id=attempt.node,
        not_before=attempt.not_before,
        overdue=seen.overdue if seen else False,
        state=attempt.state.value,
        outcome=attempt.outcome.value if attempt.outcome else None,
        revision=seen.revision if seen else 0,
        exit_code=seen.exit_code if seen else None,
        signal=seen.signal if seen else None,
        reason=seen.reason.value if seen and seen.reason else None,
        error=seen.error if seen else None,
        accepted_at=seen.accepted_at if seen else None,
        started_at=seen.started_at if seen else None,
        ended_at=seen.ended_at if seen else None,
        stdout=_stream(seen.stdout if seen else StreamEnd()),
        stderr=_stream(seen.stderr if seen else StreamEnd()),
        survivors=seen.survivors if seen else 0,
        signals=tuple(_signal(one, seen) for one in attempt.signals),
        gone_at=seen.gone_at if seen else None,
        sealed=attempt.sealed,
    )


def counts_body(counts: Counts) -> CountsBody:
    return CountsBody(**msgspec.structs.asdict(counts))


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "state": run.state.value,
        "outcome": run.outcome.value if run.outcome else None,
        "target": run.target,
        "title": run.title,
        "origin": run.origin,
        "parent": run.parent,
        "namespace": run.namespace,
        "created_at": run.created_at,
        "created_by": run.created_by,
        "labels": dict(run.labels),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "deadline_at": run.deadline_at,
        "halt": run.halt.value if run.halt else None,
        "reason": run.reason,
        "counts": counts_body(run.counts),
        "version": run.version,
    }


def _signal(order: SignalOrder, seen: Snapshot | None) -> SignalBody:
    state: Literal["wanted", "recorded", "sent"] = "wanted"
    if seen is not None and order.number <= seen.signals:
        state = "sent" if order.number <= seen.signalled else "recorded"
    return SignalBody(
        number=order.number, signal=order.signal, tree=order.tree, at=order.at, state=state
    )


def _stream(end: StreamEnd) -> StreamBody:
    return StreamBody(bytes=end.bytes, sha256=end.sha256, dropped=end.dropped)


def _script(request: RunRequest) -> bytes | None:
    if request.script is not None and request.script_b64 is not None:
        raise Invalid("order", "Give the script once: as `script` or as `script_b64`.")
    if request.script is not None:
        return request.script.encode()
    if request.script_b64 is not None:
        return _bytes("script_b64", request.script_b64)
    return None


def _bytes(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("base64", f"`{field}` is not base64: {error}.") from error


def _check_texts(request: RunRequest) -> None:
    named = {
        "argv": request.argv,
        "args": request.args,
        "env": (*request.env, *request.env.values()),
        "cwd": (request.cwd or "",),
        "user": (request.user or "",),
        "pty": (request.pty.term if request.pty else "",),
        "title": (request.title,),
    }
    for name, texts in named.items():
        if any("\0" in text for text in texts):
            raise Invalid("nul", f"`{name}` holds a NUL character, which no program can take.")
    for key in request.env:
        if not key or "=" in key:
            raise Invalid("env", f"{key!r} can't be the name of an environment variable.")
    if request.argv and not request.argv[0]:
        raise Invalid("argv", "The first word of `argv` names the program; it is empty.")
