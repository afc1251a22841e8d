"""Server-sent events: what a watcher sees becomes frames, with keep-alives and an honest end.

Each frame's id is the watcher's cursor; a client that reconnects with `Last-Event-ID` goes on
after it. A server that stops ends its streams, and clients come back to it or to another one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime

import msgspec

from quarterdeck.api.schema import counts_body
from quarterdeck.api.stream import ErrorEvent, streamed
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.streaming import Streaming
from quarterdeck.control.watch import Cursor, OutputSeen, PresentSeen, RunEndSeen, Seen, TaskSeen
from quarterdeck.core.model import Run, Task
from quarterdeck.service import Services

RETRY_MS = 500


class RunEvent(msgspec.Struct, frozen=True, kw_only=True, tag="run", tag_field="type"):
    """The first event of a stream."""

    id: str
    state: str
    target: str
    nodes: int


class OutputEvent(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="output", tag_field="type"
):
    """Bytes of one stream: `data` when they are valid UTF-8, else `data_b64`."""

    task: str
    node: str
    attempt: str
    stream: str
    offset: int
    time_us: int = 0
    data: str | None = None
    data_b64: str | None = None


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True, tag="task", tag_field="type"):
    """A task changed; with state `ended` all its output was told before. `attempt` is the newest
    one, `not_before` when it may begin; `reason` says why a task was skipped or called off."""

    task: str
    node: str
    state: str
    outcome: str | None
    exit_code: int | None
    signal: int | None
    error: str | None
    attempt: str | None = None
    not_before: datetime | None = None
    reason: str = ""
    dropped: int = 0


class EndedEvent(msgspec.Struct, frozen=True, kw_only=True, tag="ended", tag_field="type"):
    """The last event of a stream."""

    id: str
    outcome: str
    counts: dict[str, int]
    reason: str = ""


class PresentEvent(msgspec.Struct, frozen=True, kw_only=True, tag="present", tag_field="type"):
    """The last event of a stream with `follow=false` of a run that goes on."""

    complete: bool


LiveEvent = RunEvent | OutputEvent | TaskEvent | EndedEvent | PresentEvent | ErrorEvent

_encode = msgspec.json.Encoder().encode


def run_event(run: Run) -> RunEvent:
    return RunEvent(id=run.id, state=run.state.value, target=run.target, nodes=run.counts.total)


def live_event(seen: Seen) -> LiveEvent:
    """What a watcher saw, as the body of an event."""
    match seen:
        case OutputSeen(task=task, attempt=attempt, chunk=chunk):
            return _output(task, attempt, chunk.stream, chunk.offset, chunk.time_us, chunk.data)
        case TaskSeen(task=task, attempt=attempt):
            snapshot = attempt.snapshot if attempt else None
            return TaskEvent(
                task=task.id,
                node=task.node_name,
                state=task.state.value,
                outcome=task.outcome.value if task.outcome else None,
                exit_code=task.exit_code,
                signal=snapshot.signal if snapshot else None,
                error=snapshot.error if snapshot else None,
                attempt=attempt.id if attempt else None,
                not_before=attempt.not_before if attempt else None,
                reason=task.reason,
                dropped=snapshot.stdout.dropped + snapshot.stderr.dropped if snapshot else 0,
            )
        case PresentSeen(complete=complete):
            return PresentEvent(complete=complete)
        case RunEndSeen(run=run):
            return EndedEvent(
                id=run.id,
                outcome=run.outcome.value if run.outcome else "",
                counts=msgspec.structs.asdict(counts_body(run.counts)),
                reason=run.reason,
            )


def frame(event: LiveEvent, cursor: str | None) -> bytes:
    """One event on the wire."""
    kind = event.__struct_config__.tag
    head = f"event: {kind}\n" + (f"id: {cursor}\n" if cursor is not None else "")
    return head.encode() + b"data: " + _encode(event) + b"\n\n"


class Spelling(msgspec.Struct, frozen=True, kw_only=True):
    """How events are put on the wire: one by itself, and what a watcher saw."""

    media_type: str
    opening: bytes
    still_here: bytes
    event: Callable[[LiveEvent, str | None], bytes]
    seen: Callable[[Seen, str | None], bytes]


SERVER_SENT = Spelling(
    media_type="text/event-stream",
    opening=f"retry: {RETRY_MS}\n".encode(),
    still_here=b": still here\n\n",
    event=frame,
    seen=lambda seen, cursor: frame(live_event(seen), cursor),
)


async def frames(
    run: Run,
    seen: AsyncGenerator[Seen],
    cursor: Cursor,
    *,
    services: Services,
    drain: asyncio.Event,
    crowd: Crowd,
    streaming: Streaming,
    token: str,
    spelling: Spelling = SERVER_SENT,
) -> AsyncGenerator[bytes]:
    """The stream of a run's events until its end, until the server drains, or until the token
    that asked for it counts no more."""

    async def told() -> AsyncGenerator[bytes]:
        async with aclosing(seen):
            async for item in seen:
                yield spelling.seen(item, cursor.text())

    pieces = streamed(
        told(),
        what=f"run {run.id}",
        opening=spelling.opening + spelling.event(run_event(run), None),
        still_here=spelling.still_here,
        trouble=lambda error: spelling.event(error, None),
        services=services,
        drain=drain,
        crowd=crowd,
        streaming=streaming,
        token=token,
    )
    async with aclosing(pieces) as stream:
        async for piece in stream:
            yield piece


def text_or_base64(data: bytes) -> tuple[str | None, str | None]:
    """(`data`, `data_b64`) of an event: text when the bytes are valid UTF-8, else base64."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(data).decode()


def _output(
    task: Task, attempt: str, stream: str, offset: int, time_us: int, data: bytes
) -> OutputEvent:
    text, packed = text_or_base64(data)
    return OutputEvent(
        task=task.id,
        node=task.node_name,
        attempt=attempt,
        stream=stream,
        offset=offset,
        time_us=time_us,
        data=text,
        data_b64=packed,
    )
