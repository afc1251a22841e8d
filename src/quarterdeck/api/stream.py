"""A stream of pieces to one viewer, whatever they say: keep-alives, an honest end, and who counts.

It ends with what it tells, with the server's drain, or when the token that asked for it counts no
more; an error in the middle is the last piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import response as litestar
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from quarterdeck.control.crowd import Crowd
from quarterdeck.control.streaming import Streaming
from quarterdeck.errors import Denied, QuarterdeckError, Unavailable
from quarterdeck.service import Services, guarded, sentence

KEEP_ALIVE_S = 15.0
QUEUE = 8


class ErrorEvent(msgspec.Struct, frozen=True, kw_only=True, tag="error", tag_field="type"):
    """The stream ends because of an error: what a problem document would say."""

    status: int
    code: str
    detail: str


class Stream(litestar.Stream):
    """An answer in pieces, whose generator is closed however the answer ends.

    Litestar leaves a generator that waits in a `yield` to the garbage collector, and with it what
    it holds: a place in the crowd, a token's door, an open file.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], **more: Any) -> None:
        super().__init__(pieces, **more)
        self._pieces = pieces

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIResponse:
        return _Closing(super().to_asgi_response(*args, **kwargs), self._pieces)


class _Closing(ASGIResponse):
    def __init__(self, answer: ASGIResponse, pieces: AsyncGenerator[bytes]) -> None:
        super().__init__()
        self._answer = answer
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            await self._answer(scope, receive, send)


def voided() -> Denied:
    """Made anew each time: an error that is raised again keeps the frames of every time before."""
    return Denied(
        "token_revoked", "The token of this stream was revoked or has expired: ask for a new one."
    )


async def streamed(
    told: AsyncGenerator[bytes],
    *,
    what: str,
    opening: bytes,
    still_here: bytes,
    trouble: Callable[[ErrorEvent], bytes],
    services: Services,
    drain: asyncio.Event,
    crowd: Crowd,
    streaming: Streaming,
    token: str,
) -> AsyncGenerator[bytes]:
    """`opening`, then what is `told`, with `still_here` where nothing is for a while."""
    try:
        crowd.enter()
    except Unavailable as error:
        yield trouble(error_event(error))
        return
    try:
        with streaming.by(token) as cut:
            pieces = _pieces(told, what, opening, still_here, trouble, services, drain, cut)
            async with aclosing(pieces) as stream:
                async for piece in stream:
                    yield piece
    finally:
        crowd.leave()


async def _pieces(
    told: AsyncGenerator[bytes],
    what: str,
    opening: bytes,
    still_here: bytes,
    trouble: Callable[[ErrorEvent], bytes],
    services: Services,
    drain: asyncio.Event,
    cut: asyncio.Event,
) -> AsyncGenerator[bytes]:
    queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
    wake = asyncio.Event()  # one for all that is waited for: a piece is one turn of the loop away

    async def read() -> None:
        async with aclosing(told):
            async for piece in told:
                await queue.put(piece)
                wake.set()

    async def pump() -> None:
        failed = await guarded(_nothing(read()), error_event)
        if failed is not None:
            await queue.put(trouble(failed))

    pumping = services.spawn(pump(), f"watch {what}")
    draining = services.spawn(drain.wait(), f"drain of watch {what}")
    cutting = services.spawn(cut.wait(), f"token of watch {what}")
    for each in (pumping, draining, cutting):
        each.add_done_callback(lambda _: wake.set())
    try:
        yield opening
        while not draining.done() and not (pumping.done() and queue.empty()):
            if cut.is_set():
                yield trouble(error_event(voided()))
                return
            if not queue.empty():
                yield queue.get_nowait()
                continue
            wake.clear()
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await wake.wait()
            except TimeoutError:
                yield still_here
    finally:  # a viewer that leaves cuts us off wherever we wait
        for task in (pumping, draining, cutting):
            task.cancel()


async def _nothing(work: Awaitable[None]) -> ErrorEvent | None:
    await work
    return None


def error_event(error: Exception) -> ErrorEvent:
    """What a viewer is told of an error."""
    if isinstance(error, QuarterdeckError):
        return ErrorEvent(status=error.http_status, code=error.code, detail=error.message)
    return ErrorEvent(status=500, code="internal", detail=f"The server met {sentence(error)}.")
