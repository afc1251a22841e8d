"""A sender that speaks Socket.IO: what it says becomes a trace, its offsets are counted here.

The trace begins when its sender says who it is, lives as long as the connection, and ends with
`eof` or `bye`; one whose connection breaks before that is lost.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from quarterdeck.api.auth import KINDS, SCOPED, SENDERS, check_rights, within_scope
from quarterdeck.control.main import Server
from quarterdeck.control.trace.service import NewTrace
from quarterdeck.core.trace import End, Frame, Positions, Start, Trace, TraceState
from quarterdeck.errors import Conflict, Invalid
from quarterdeck.service import entropy
from quarterdeck.store.access import Principal

ALIVE_S = 2.0
MOST_WORDS = 1000
STREAMS = {"STDOUT": "stdout", "STDERR": "stderr"}
SENDING = {KINDS: SENDERS, SCOPED: True}


class SocketSender:
    """One trace of one connection."""

    def __init__(self, server: Server, trace: Trace) -> None:
        self._server = server
        self._trace = trace
        self._turn = asyncio.Lock()
        self._sent = {"stdout": 0, "stderr": 0}
        self._over = False
        self._beating = server.services.spawn(self._beat(), "sender of a trace by Socket.IO")

    @classmethod
    async def begin(
        cls, server: Server, principal: Principal, namespace: str, said: dict[str, Any]
    ) -> SocketSender:
        """Raises Denied and Invalid."""
        name = _text(said, "name", 100)
        check_rights(principal, SENDING)
        within_scope(principal, name)
        new = NewTrace(
            name=name,
            sender=_text(said, "id", 255) or "socket.io",
            key=entropy(16).hex(),
            namespace=namespace,
            kept=said.get("keep") is True,
            start=Start(
                host=_text(said, "host"),
                user=_text(said, "user"),
                cwd=_text(said, "cwd"),
                command=_words(said.get("command")),
                title=_text(said, "title"),
            ),
        )
        begun = await server.traces.begin(new, by=principal.at(namespace))
        return cls(server, begun.trace)

    @property
    def trace(self) -> str:
        return self._trace.id

    async def data(self, said: object) -> int:
        """Take the next bytes of a stream; how many bytes of it there are now. Raises Invalid."""
        given: dict[str, Any] = said if isinstance(said, dict) else {"data": said}
        inner = given.get("data")
        if isinstance(inner, dict):  # as watchers are told it
            given = inner
        stream = STREAMS.get(str(given.get("type", "STDOUT")).upper())
        if stream is None:
            raise Invalid("stream", "The type of data is STDOUT or STDERR.")
        content = _bytes(given)
        async with self._turn:
            if self._over:
                raise Conflict("trace_over", "This trace has ended: what comes now is not taken.")
            now_us = int(self._server.clock.now().timestamp() * 1_000_000)
            frame = Frame(stream, self._sent[stream], now_us, content)
            await self._server.traces.take(self._trace, [frame])
            self._sent[stream] += len(content)
            return self._sent[stream]

    async def eof(self, said: object) -> None:
        """End the trace; a repeat changes nothing. Raises Invalid."""
        given = said if isinstance(said, dict) else {"code": said}
        code, signal = _number(given, "code", 0, 255), _number(given, "signal", 1, 64)
        async with self._turn:
            if self._over:
                return
            end = End(code=code, signal=signal, message=_text(given, "message"))
            await self._server.traces.end(self._trace, end, said=Positions(**self._sent))
            self._finish()

    async def broken_off(self) -> None:
        """The connection is gone."""
        async with self._turn:
            if not self._over:
                self._finish()
                await self._server.traces.lose(self._trace.id)

    def _finish(self) -> None:
        self._over = True
        self._beating.cancel()

    async def _beat(self) -> None:
        while self._trace.state is TraceState.OPEN:
            self._server.traces.alive(self._trace.id)
            await asyncio.sleep(ALIVE_S)


def _bytes(given: dict[str, Any]) -> bytes:
    content = given.get("data", given.get("base64", ""))
    if isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise Invalid("data", "The data of a stream is text or bytes (or `base64`).")
    if "data" in given:
        return content.encode(errors="replace")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise Invalid("data", f"`base64` is not valid: {error}.") from error


def _text(given: dict[str, Any], field: str, most: int = 4096) -> str:
    value = given.get(field)
    return "" if value is None else _sound(value)[:most]


def _words(command: object) -> tuple[str, ...]:
    """Raises Invalid."""
    if command is None or isinstance(command, str):
        return (_sound(command),) if command else ()
    if not isinstance(command, list):
        raise Invalid("command", "`command` is a text or a list of words.")
    return tuple(_sound(word) for word in command[:MOST_WORDS])


def _sound(value: object) -> str:
    """A text without halves of characters, which JSON may carry."""
    return str(value).encode(errors="replace").decode()


def _number(given: dict[str, Any], field: str, least: int, most: int) -> int | None:
    value = given.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Invalid(field, f"`{field}` is a number from {least} to {most}.")
    return value
