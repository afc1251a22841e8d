"""Carries the fabric's WebSocket at `/fabric` of the API's own listener: one port for everything.

A request for a WebSocket there is handed on to nats-server as it came, and from then on bytes go
both ways untouched: no frame is parsed, nothing is decided here, who may do what is between the two
ends. What one side does not take stops the reading from the other, so a link costs two sockets and
at most some 200 KiB, whatever its ends do. Leaf nodes come to `/fabric/leafnode` by the same way.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from quarterdeck.api.patience import problem_bytes
from quarterdeck.service import Services
from quarterdeck.telemetry import LinkClosed, LinkOpened, LinkTurnedAway, Telemetry
from quarterdeck.wire.enrol import FABRIC_PATH

DIAL_S = 5.0
HIGH_WATER = 64 << 10
OF_THE_API = (b"/v1/", b"/socket.io/")
PATHS = (FABRIC_PATH, f"{FABRIC_PATH}/leafnode")


class Far(msgspec.Struct, frozen=True, kw_only=True):
    """Where nats-server takes WebSockets; `tls` None: in the clear."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


def far_of(url: str, tls: ssl.SSLContext | None) -> Far | None:
    """What the setting `websocket_url` names; None when it is empty."""
    if not url:
        return None
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    context = (tls or ssl.create_default_context()) if secure else None
    return Far(host=parts.hostname or "", port=port, tls=context)


class Relays:
    """Every link that goes through this server, at most `limit`."""

    def __init__(
        self, far: Far | None, limit: int, services: Services, telemetry: Telemetry
    ) -> None:
        self.far = far
        self._limit = limit
        self._services = services
        self._telemetry = telemetry
        self._open = 0

    def take(self) -> bool:
        """Whether there is room for one more."""
        if self._open >= self._limit:
            return False
        self._open += 1
        self._telemetry.emit(LinkOpened())
        return True

    def give_back(self) -> None:
        self._open -= 1
        self._telemetry.emit(LinkClosed())

    def turned_away(self, reason: str) -> None:
        self._telemetry.emit(LinkTurnedAway(reason=reason))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._services.spawn(work, "fabric relay")


class RelayProtocol(asyncio.Protocol):
    """One link, on the side of who called; uvicorn makes it when a request asks for a WebSocket.

    `server_state` is uvicorn's: what is in its `connections` is told to shut down with it.
    """

    def __init__(
        self, config: object, server_state: Any, app_state: object, *, relays: Relays
    ) -> None:
        self._relays = relays
        self._server_state = server_state
        self._near: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._head = b""
        self._counted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._near = transport
        self._server_state.connections.add(self)
        transport.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        """The request's head, then whatever comes."""
        if self._far is not None:
            self._far.write(data)
        elif self._dialling is None and self._near is not None and not self._near.is_closing():
            self._head = data
            self._admit(data)
        else:
            self._head += data  # read before the pause took effect

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._far is not None and not self._far.is_closing():
            self._far.pause_reading()

    def resume_writing(self) -> None:
        if self._far is not None and not self._far.is_closing():
            self._far.resume_reading()

    def shutdown(self) -> None:
        """uvicorn ends: its clients find another server."""
        self._end()

    def _admit(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
        if path.rstrip("/") not in PATHS or self._relays.far is None:
            self._turn_away(
                404,
                b"Not Found",
                "no_route",
                f"There is no WebSocket at {path[:200]}.",
            )
        elif not self._relays.take():
            self._turn_away(
                503,
                b"Service Unavailable",
                "too_many_links",
                "This server carries as many links as it may (`max_links`): try another.",
            )
        else:
            self._counted = True
            assert self._near is not None
            self._near.pause_reading()
            self._dialling = self._relays.spawn(self._dial(self._relays.far))

    async def _dial(self, far: Far) -> None:
        name = far.host if far.tls is not None else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIAL_S):
                await loop.create_connection(
                    lambda: _FarSide(self), far.host, far.port, ssl=far.tls, server_hostname=name
                )
        except OSError as error:  # TimeoutError is one
            why = str(error) or "not in time"
            self._turn_away(
                503,
                b"Service Unavailable",
                "no_fabric",
                f"The fabric does not answer ({why}): try again.",
            )

    def joined(self, far: asyncio.Transport) -> None:
        """The far side stands: hand on what came first."""
        if self._near is None or self._near.is_closing():
            far.abort()
            return
        far.set_write_buffer_limits(HIGH_WATER)
        self._far = far
        far.write(self._head)
        self._head = b""
        self._near.resume_reading()

    def from_far(self, data: bytes) -> None:
        if self._near is not None:
            self._near.write(data)

    def far_full(self, full: bool) -> None:
        """The far side takes no more for now, or again."""
        if self._near is None or self._near.is_closing():
            return
        if full:
            self._near.pause_reading()
        else:
            self._near.resume_reading()

    def far_lost(self) -> None:
        if self._near is not None:
            self._near.close()  # what is on its way to the caller may still arrive

    def _turn_away(self, status: int, phrase: bytes, code: str, detail: str) -> None:
        self._relays.turned_away(code)
        if self._near is not None and not self._near.is_closing():
            self._near.write(problem_bytes(status, phrase, code, detail))
            self._near.close()

    def _end(self) -> None:
        self._server_state.connections.discard(self)
        if self._counted:
            self._counted = False
            self._relays.give_back()
        if self._far is not None:
            self._far.abort()
        elif self._dialling is not None:
            self._dialling.cancel()
        if self._near is not None and not self._near.is_closing():
            self._near.close()


class _FarSide(asyncio.Protocol):
    """The side of nats-server."""

    def __init__(self, near: RelayProtocol) -> None:
        self._near = near

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._near.joined(transport)

    def data_received(self, data: bytes) -> None:
        self._near.from_far(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._near.far_lost()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._near.far_full(True)

    def resume_writing(self) -> None:
        self._near.far_full(False)


def relaying(relays: Relays, others: Callable[..., Any]) -> Callable[[bytes], Callable[..., Any]]:
    """Says what takes over a request for a WebSocket, from its target: `others` at the paths of the
    API, the relay elsewhere, which knows the fabric's. It is called as uvicorn calls a class."""

    def make(config: object, server_state: Any, app_state: object) -> RelayProtocol:
        return RelayProtocol(config, server_state, app_state, relays=relays)

    def choose(target: bytes) -> Callable[..., Any]:
        return others if target.startswith(OF_THE_API) else make

    return choose
