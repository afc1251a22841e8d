"""Ends the requests of a token that was voided: uploads, downloads, streams, whoever waits.

From the moment its token is known a request is among those that control/streaming.py looks after.
A body that still comes is not taken: its sender is answered 403. What has not ended a little later
(a viewer that reads nothing, a download) is cut off; work that was begun is finished all the same.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from quarterdeck.api.front import App, Receive, Scope, Send
from quarterdeck.api.patience import ABORT
from quarterdeck.api.stream import voided
from quarterdeck.control.streaming import Streaming

REQUEST = "request of a token"
GRACE_S = 0.3
WITH_BODY = ("POST", "PUT", "PATCH")


class HeldRequest:
    """One request that may be cut."""

    def __init__(self, streaming: Streaming, scope: Scope, receive: Receive) -> None:
        self._streaming = streaming
        self._scope = scope
        self._receive = receive
        self._kept = ExitStack()
        self._whole = scope["method"] not in WITH_BODY
        self._voided = False
        self._waiting: asyncio.Timeout | None = None
        self._aborting: asyncio.TimerHandle | None = None

    def enter(self, token: str) -> None:
        """It is this token's; `leave` ends that."""
        self._kept.enter_context(self._streaming.told(token, self._void))

    def leave(self) -> None:
        """It was answered; who was cut while sending is not listened to any more."""
        self._kept.close()
        if self._whole and self._aborting is not None:
            self._aborting.cancel()

    async def receive(self) -> object:
        """The next part of the request. Raises Denied once its token counts no more."""
        if self._whole:
            return await self._receive()
        message = None
        if not self._voided:
            try:
                async with asyncio.timeout(None) as self._waiting:
                    message = await self._receive()
            except TimeoutError:
                pass
            finally:
                self._waiting = None
        if self._voided or message is None:
            raise voided()
        self._whole = not message.get("more_body", False)
        return message

    def _void(self) -> None:
        if self._voided:
            return
        self._voided = True
        loop = asyncio.get_running_loop()
        if self._waiting is not None:
            self._waiting.reschedule(loop.time())
        abort = self._scope.get(ABORT)
        if abort is not None:
            self._aborting = loop.call_later(GRACE_S, abort)


def cutting(app: App, streaming: Streaming) -> App:
    """The application, whose requests end with their tokens."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        held = scope[REQUEST] = HeldRequest(streaming, scope, receive)
        try:
            await app(scope, held.receive, send)
        finally:
            held.leave()

    return call


def held_by(scope: Scope, token: str) -> None:
    """The token of a request is known."""
    held: HeldRequest | None = scope.get(REQUEST)
    if held is not None:
        held.enter(token)
