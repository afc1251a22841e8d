"""How long a client may take to send a request: for its head, between two pieces of its body, and
for all of it. Whoever is slower is answered 408 and cut off, so that half-sent requests cost
neither memory nor descriptors for long.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

ENDLESS = "endless"
"""Key of a request's state: its body may take for ever, since it is what a command says."""
PROBES = ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 2))
"""How the kernel asks whether the other machine of an endless body is still there, in seconds."""
ABORT = "abort"
"""Key of a scope: breaks the connection of its request off."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: from the first byte (or the connection) to the end of the head, between two pieces
    of a body, and from the head to the end of the body."""

    head_s: float = 10.0
    piece_s: float = 20.0
    body_s: float = 300.0


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with a clock for what has not come yet. `upgrade` says from the target of
    a request for a WebSocket what makes the protocol that takes it over."""

    def __init__(
        self, *args: Any, patience: Patience, upgrade: Callable[[bytes], Any], **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._routes, self.app = self.app, self._with_abort
        self._patience = patience
        self._upgrade = upgrade
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._state: object = None
        self._handed_over = False
        self._wanted = False

    async def _with_abort(self, scope: Any, receive: Any, send: Any) -> None:
        scope[ABORT] = self.transport.abort
        self._wanted = False

        async def wanted() -> Any:
            self._wanted = True
            return await receive()

        await self._routes(scope, wanted, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """From now on the connection is the WebSocket's, whose ends have clocks of their own."""
        self._handed_over = True
        self.ws_protocol_class = self._upgrade(event.target)
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets a problem document too."""
        self.transport.write(
            problem_bytes(400, b"Bad Request", "no_http", f"{msg} Speak HTTP/1.1.")
        )
        self.transport.close()

    def _watch(self) -> None:
        """Set the clock for what is awaited from the client now."""
        state, now = self.conn.their_state, self.loop.time()
        waiting = state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()
        if not waiting or self._handed_over or self._endless():
            self._disarm()
            return
        if state is not self._state or self._timer is None:
            whole_s = self._patience.head_s if state is h11.IDLE else self._patience.body_s
            self._until = now + whole_s
        self._disarm()
        self._state = state
        at = self._until
        if state is h11.SEND_BODY:
            at = min(at, now + self._patience.piece_s)
        self._timer = self.loop.call_at(at, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._state = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._endless():
            return
        if self.flow.read_paused or self._at_work():  # we do not read: not the client's fault
            self._watch()
            return
        if not self._answered():
            self.transport.write(_SLOW)
        self.transport.close()

    def _endless(self) -> bool:
        """Whether the body that comes may take for ever; then the kernel looks after its sender."""
        if self.conn.their_state is not h11.SEND_BODY or ENDLESS not in self.scope["state"]:
            return False
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        return True

    def _at_work(self) -> bool:
        """Whether a request is worked on that has not asked for its body yet."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete and not self._wanted

    def _answered(self) -> bool:
        """Whether the request whose body does not come has its answer, or the beginning of it."""
        cycle: RequestResponseCycle | None = self.cycle
        begun = cycle is not None and cycle.response_started
        return begun and self.conn.their_state is h11.SEND_BODY


def problem_bytes(status: int, phrase: bytes, code: str, detail: str) -> bytes:
    """A whole answer, for a request that no application sees."""
    problem = msgspec.json.encode(
        {
            "type": f"urn:quarterdeck:{code}",
            "title": phrase.decode(),
            "status": status,
            "code": code,
            "detail": detail,
        }
    )
    head = (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n" % (status, phrase, len(problem))
    )
    return head + problem


_SLOW = problem_bytes(
    408,
    b"Request Timeout",
    "too_slow",
    "The request did not arrive in time: send it again, faster.",
)
