"""Server-sent events: a viewer that leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import cast

from quarterdeck.api.live import frames
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.streaming import Streaming
from quarterdeck.control.watch import Cursor, OutputSeen, Seen
from quarterdeck.core.model import Order, Run, Task
from quarterdeck.errors import Broken
from quarterdeck.service import Services, SystemClock
from quarterdeck.store.base import Database
from quarterdeck.wire.codec import Chunk

STREAMING = Streaming(database=cast(Database, None), clock=SystemClock())
RUN = Run(id="0" * 16, target="all", order=Order(), created_at=datetime.now(UTC), created_by="t")
TASK = Task(id="0" * 16 + "-0", run=RUN.id, position=0, node="n", node_name="n")


def services() -> Services:
    return Services(lambda *_: None, SystemClock())


async def endless(closed: asyncio.Event) -> AsyncGenerator[Seen]:
    try:
        while True:
            yield OutputSeen(TASK, TASK.id + "-1", Chunk("stdout", 0, 0, b"x" * 1000))
    finally:
        closed.set()


async def failing() -> AsyncGenerator[Seen]:
    yield OutputSeen(TASK, TASK.id + "-1", Chunk("stdout", 0, 0, b"x"))
    raise Broken("archive", "It is damaged.")


def told(
    seen: AsyncGenerator[Seen], owner: Services, *, drain: asyncio.Event | None = None
) -> AsyncGenerator[bytes]:
    return frames(
        RUN,
        seen,
        Cursor(),
        services=owner,
        drain=drain or asyncio.Event(),
        crowd=Crowd(1),
        streaming=STREAMING,
        token="t",
    )


async def test_a_viewer_that_leaves_with_a_full_queue_ends_its_watcher() -> None:
    owner, closed = services(), asyncio.Event()
    stream = told(endless(closed), owner)
    for _ in range(3):
        await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):
        await closed.wait()
    await owner.stop()


async def test_an_error_in_the_middle_is_told_as_the_last_event() -> None:
    owner = services()
    stream = told(failing(), owner)
    async with asyncio.timeout(5):
        seen = [frame async for frame in stream]
    assert b"event: error" in seen[-1] and b"It is damaged." in seen[-1]
    await owner.stop()


async def test_a_server_that_drains_ends_the_stream() -> None:
    owner, drain = services(), asyncio.Event()
    stream = told(endless(asyncio.Event()), owner, drain=drain)
    await anext(stream)
    drain.set()
    async with asyncio.timeout(5):
        async for _ in stream:
            pass
    await owner.stop()


async def test_a_stream_whose_token_counts_no_more_ends_with_the_reason() -> None:
    owner = services()
    stream = told(endless(asyncio.Event()), owner)
    await anext(stream)
    for end in STREAMING._open["t"].values():
        end()
    async with asyncio.timeout(5):
        seen = [frame async for frame in stream]
    assert b"event: error" in seen[-1] and b"ask for a new one" in seen[-1]
    assert not STREAMING._open
    await owner.stop()


async def test_a_silent_stream_is_cut_too() -> None:
    async def silent() -> AsyncGenerator[Seen]:
        await asyncio.Event().wait()
        yield OutputSeen(TASK, TASK.id + "-1", Chunk("stdout", 0, 0, b"x"))

    owner = services()
    stream = told(silent(), owner)
    await anext(stream)
    last = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for end in STREAMING._open["t"].values():
        end()
    async with asyncio.timeout(5):
        assert b"event: error" in await last
    await stream.aclose()
    await owner.stop()
