"""What a watcher of traces is told, as events: server-sent, and as messages of a WebSocket."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

import msgspec

from quarterdeck.api.live import RETRY_MS, text_or_base64
from quarterdeck.api.stream import ErrorEvent
from quarterdeck.control.trace.view import (
    VANISHED,
    TraceBegan,
    TraceMissing,
    TraceOutput,
    TracePresent,
    TraceSeen,
    TracesEnded,
    TraceTurned,
    TraceVanished,
)
from quarterdeck.core import traced
from quarterdeck.core.ids import task_id
from quarterdeck.core.states import Outcome
from quarterdeck.core.trace import LOST, End, Trace
from quarterdeck.core.trace_cursor import Cursor


class TraceRunEvent(msgspec.Struct, frozen=True, kw_only=True, tag="run", tag_field="type"):
    """A sender began: the trace `id` of the sender `node`."""

    id: str
    node: str
    name: str
    namespace: str
    host: str
    user: str
    cwd: str
    command: tuple[str, ...]
    title: str
    pid: int
    tty: bool
    started_at: datetime
    kept: bool


class TraceOutputEvent(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="output", tag_field="type"
):
    """Bytes of one stream: `data` when they are valid UTF-8, else `data_b64`."""

    task: str
    node: str
    run: str
    stream: str
    offset: int
    time_us: int = 0
    data: str | None = None
    data_b64: str | None = None


class TraceGapEvent(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="gap",
    tag_field="type",
    rename={"start": "from", "end": "to", "count": "bytes"},
):
    """`bytes` are nowhere any more, for a reason: `window` (pushed out by later ones), `fabric`
    (its restart took them), `dropped` (the sender had no room for them), `limit` (beyond what is
    kept of one trace). Dropped ones have no offsets: `from` and `to` are where they would stand."""

    run: str
    node: str
    stream: str
    start: int
    end: int
    count: int
    reason: str


class TraceTaskEvent(msgspec.Struct, frozen=True, kw_only=True, tag="task", tag_field="type"):
    """A trace has ended and all of its output was told; or a lost one (`outcome` lost) is running
    again."""

    task: str
    run: str
    node: str
    state: str
    outcome: str | None
    exit_code: int | None
    signal: int | None
    message: str
    ended_at: datetime | None


class TracePresentEvent(msgspec.Struct, frozen=True, kw_only=True, tag="present", tag_field="type"):
    """Everything there was when the watching began was told; what follows is live."""


class TracesEndedEvent(msgspec.Struct, frozen=True, kw_only=True, tag="ended", tag_field="type"):
    """The last event of a stream that does not stay: all have ended. `exit_code` is the worst."""

    outcome: str
    exit_code: int
    counts: dict[str, int]


TraceEvent = (
    TraceRunEvent
    | TraceOutputEvent
    | TraceGapEvent
    | TraceTaskEvent
    | TracePresentEvent
    | TracesEndedEvent
    | ErrorEvent
)

_encode = msgspec.json.Encoder().encode
OPENING = f"retry: {RETRY_MS}\n\n".encode()
STILL_HERE = b": still here\n\n"


def trace_event(seen: TraceSeen) -> TraceEvent:
    """What a watcher saw, as the body of an event."""
    match seen:
        case TraceBegan(trace=trace):
            return _run(trace)
        case TraceOutput(trace=trace, chunk=chunk):
            text, packed = text_or_base64(chunk.data)
            return TraceOutputEvent(
                task=task_id(trace.id, 0),
                node=trace.sender,
                run=trace.id,
                stream=chunk.stream,
                offset=chunk.offset,
                time_us=chunk.time_us,
                data=text,
                data_b64=packed,
            )
        case TraceMissing(trace=trace, missing=missing):
            return TraceGapEvent(
                run=trace.id,
                node=trace.sender,
                stream=missing.stream,
                start=missing.start,
                end=missing.end,
                count=missing.count,
                reason=missing.reason,
            )
        case TraceTurned(trace=trace, outcome=outcome):
            return _task(trace, outcome)
        case TracePresent():
            return TracePresentEvent()
        case TraceVanished(trace=id):
            return _vanished(id)
        case TracesEnded():
            return _ended(seen)
        case _:
            assert_never(seen)


def server_sent(event: TraceEvent, cursor: Cursor | None) -> bytes:
    """One event of a stream."""
    id = None if cursor is None else cursor.text()
    kind = event.__struct_config__.tag
    head = f"event: {kind}\n" + (f"id: {id}\n" if id is not None else "")
    return head.encode() + b"data: " + _encode(event) + b"\n\n"


def message(event: TraceEvent, cursor: Cursor | None) -> bytes:
    """One message of a WebSocket: the event, with what resumes after it as `cursor`."""
    id = None if cursor is None else cursor.text()
    body = _encode(event)
    return body if id is None else body[:-1] + b',"cursor":' + _encode(id) + b"}"


def _run(trace: Trace) -> TraceRunEvent:
    start = trace.start
    return TraceRunEvent(
        id=trace.id,
        node=trace.sender,
        name=trace.name,
        namespace=trace.namespace,
        host=start.host,
        user=start.user,
        cwd=start.cwd,
        command=start.command,
        title=traced.title(trace),
        pid=start.pid,
        tty=start.tty,
        started_at=trace.started_at,
        kept=trace.kept,
    )


def _task(trace: Trace, outcome: Outcome | None) -> TraceTaskEvent:
    over = outcome is not None
    end = trace.end or End()
    return TraceTaskEvent(
        task=task_id(trace.id, 0),
        run=trace.id,
        node=trace.sender,
        state="ended" if over else "running",
        outcome=outcome.value if outcome is not None else None,
        exit_code=traced.exit_code(trace) if over else None,
        signal=end.signal if over else None,
        message=LOST if outcome is Outcome.LOST else end.message,
        ended_at=trace.ended_at if over else None,
    )


def _vanished(id: str) -> TraceTaskEvent:
    return TraceTaskEvent(
        task=task_id(id, 0),
        run=id,
        node="",
        state="ended",
        outcome=Outcome.LOST.value,
        exit_code=None,
        signal=None,
        message=VANISHED,
        ended_at=None,
    )


def _ended(seen: TracesEnded) -> TracesEndedEvent:
    order = (Outcome.FAILED, Outcome.LOST)
    whole = next((one for one in order if one in seen.counts), Outcome.SUCCEEDED)
    counts = {outcome.value: count for outcome, count in seen.counts.items()}
    return TracesEndedEvent(outcome=whole.value, exit_code=seen.exit_code, counts=counts)
