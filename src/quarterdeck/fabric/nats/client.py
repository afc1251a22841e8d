"""One connection to NATS that never mends itself: nats-py with its edge paths cut off.

nats-py's own reconnect hangs on black holes, closes for ever on most errors, replays nothing that
was in flight and cannot await a new JWT. So here a connection only lives and dies: `lost` is called
once when it is over for whatever reason, and `Link` makes the next one. What is used of nats-py is
the handshake, TLS, WebSocket, the parser and the flusher; messages go straight from the parser to
the handler (no queue, no task per subscription), and sending is a plain call (`post`).

This file is the only one that touches nats-py's private names; tests/contracts guards them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import Callable

import msgspec
import nats.aio.client
import nats.errors

from quarterdeck.errors import QuarterdeckError, Unavailable
from quarterdeck.fabric.base import JwtSource, Signer
from quarterdeck.fabric.connection import (
    ROOM,
    ZOMBIE,
    RawHandler,
    in_time,
    is_websocket,
    not_admitted,
    not_reached,
    text_of,
)
from quarterdeck.fabric.nats.tcp import DirectTransport
from quarterdeck.fabric.nats.websocket import WebSocketTransport
from quarterdeck.fabric.proxy import Proxy
from quarterdeck.service import caught, guarded
from quarterdeck.wire import subjects

_BUFFER = 256 << 10  # doubles the receive rate against the default of 32 KiB
_NEVER_S = 10**9
_CLOSE_S = 2.0

# A module constant of nats-py is the only way to set it.
nats.aio.client.DEFAULT_BUFFER_SIZE = _BUFFER


Trust = Callable[[str], ssl.SSLContext | None]
"""Whom to trust at a `tls:` or `wss:` address; None: the machine's own authorities."""
Proxies = Callable[[str], Proxy | None]
"""The proxy that leads to a `ws:` or `wss:` address."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who connects and how: the login is asked for at each `open`, times are those of Options."""

    name: str
    jwt_source: JwtSource
    signer: Signer
    timeout_s: float
    ping_interval_s: float
    pings_outstanding: int
    tls: Trust | None = None
    proxies: Proxies | None = None


class Client(nats.aio.client.Client):
    """A `Connection`. `lost(reason)` is called at most once; `complain(text)` for refused subjects
    and for handlers that raise."""

    def __init__(
        self, login: Login, lost: Callable[[str], None], complain: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.lost_reason: str | None = None
        self.on_lost: dict[Callable[[], None], None] = {}
        self._login = login
        self._received = 0
        self._tell_lost = lost
        self._complain = complain
        self._handlers: dict[int, RawHandler] = {}
        self._flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushed.set_result(None)

    async def open(self, url: str) -> None:
        """Connect or raise `Unavailable`/`Denied`; disposes of itself when it raises.

        Whatever a foreign server, the login's source or nats-py come up with is one of these: a
        link that dials for ever must not end by it.
        """
        try:
            error = await guarded(self._handshake(url), lambda error: error)
            if error is not None:
                raise _as_ours(url, self._login.name, error) from error
        except BaseException:
            await self.dispose()
            raise

    async def _handshake(self, url: str) -> Exception | None:
        login = self._login
        jwt = await login.jwt_source()

        def sign(nonce: str) -> bytes:
            # nats-py goes on in the clear when whoever answers says that it knows no TLS.
            if url.startswith("tls:") and not self._server_info.get("tls_required"):
                raise nats.errors.Error("it does not offer TLS, which this address asks for")
            return base64.b64encode(login.signer(nonce.encode()))

        context = login.tls(url) if login.tls is not None else None
        if is_websocket(url):
            proxy = login.proxies(url) if login.proxies is not None else None
            self._transport = WebSocketTransport(context, proxy)
        else:
            self._transport = DirectTransport()
        async with asyncio.timeout(login.timeout_s):
            await self.connect(
                servers=[url],
                name=login.name,
                error_cb=self._on_error,
                allow_reconnect=False,
                connect_timeout=login.timeout_s,  # type: ignore[arg-type]
                # nats-py would try a second time after this pause; _on_error stops it before.
                reconnect_time_wait=_NEVER_S,
                ping_interval=login.ping_interval_s,  # type: ignore[arg-type]
                max_outstanding_pings=login.pings_outstanding,
                flusher_queue_size=0,
                user_jwt_cb=jwt.encode,
                signature_cb=sign,
                inbox_prefix=subjects.inbox(login.name),
                tls=context,
            )
        if not self.is_connected or self._reading_task is None:
            # An INFO line that overtakes the PONG leaves nats-py CONNECTING for ever.
            raise Unavailable(
                ZOMBIE, f"The fabric at {url} did not finish the handshake; it is dialled again."
            )
        self._reading_task.add_done_callback(lambda _: self.over("the reader ended"))
        _limit_unacknowledged(self._transport, login.ping_interval_s * login.pings_outstanding)
        return None

    async def dispose(self) -> None:
        """Cut the connection at once and end every task of nats-py. Never hangs on the peer."""
        self.lost_reason = self.lost_reason or "closed here"
        self._status = self.CLOSED
        self._pending.clear()
        self._pending_data_size = 0
        for task in (self._ping_interval_task, self._flusher_task, self._reading_task):
            if task is not None:
                task.cancel()
        _release(self._pongs, self._flush_queue)
        for writer_name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, writer_name, None)
            if writer is not None:
                # asyncio lets go of the loop of a transport that was closed with bytes to write
                # and has written them; abort then stumbles over what is over.
                with contextlib.suppress(AttributeError):
                    writer.transport.abort()
        tasks = [self._ping_interval_task, self._flusher_task, self._reading_task]
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
            # TimeoutError is an OSError.
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._transport.wait_closed()  # type: ignore[no-untyped-call]

    def over(self, reason: str) -> None:
        """Declare the connection lost, once; `dispose` cuts it."""
        if self.lost_reason is not None:
            return
        self.lost_reason = reason
        _release(self._pongs, self._flush_queue)
        for callback in list(self.on_lost):
            callback()
        self._tell_lost(reason)

    # What nats-py calls.

    async def _on_error(self, error: Exception) -> None:
        if not self.is_connected:
            raise error
        if not isinstance(error, nats.errors.UnexpectedEOF):
            self._complain(str(error))

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg:
            self._complain(err_msg.strip("'"))
        else:
            self.over(f"the fabric said {err_msg}")

    async def _process_op_err(self, e: Exception) -> None:
        self.over(str(e) or type(e).__name__)

    async def _ping_interval(self) -> None:
        """Waits for: the next look. The link is dead when several looks saw nothing move.

        On a slow link a PING waits behind megabytes, so bytes that leave count as life too, and
        while any wait no PING is sent: they are the probe.
        """
        looks, before = 0, (0, 0, 0)
        while self.lost_reason is None:
            await asyncio.sleep(self.options["ping_interval"])
            now = (self._pongs_received, self._received, self.unsent)
            looks = looks + 1 if now == before else 0
            before = now
            if looks > self.options["max_outstanding_pings"]:
                self.over("nothing moved for too long")
            elif now[2] == 0:
                self._ping()

    def _ping(self) -> asyncio.Future[bool]:
        # nats-py's own lets its PING overtake queued commands.
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._command("PING\r\n")
        return pong

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        writer = getattr(self._transport, "_io_writer", None)
        waiting = writer.transport.get_write_buffer_size() if writer is not None else 0
        return self._pending_data_size + int(waiting)

    async def _process_pong(self) -> None:
        self._pongs_received += 1
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self._received += 1
        handler = self._handlers.get(sid)
        if handler is None:
            return
        # one bad message must not end the link of all
        _, error = caught(lambda: handler(subject, reply, data, headers))
        if error is not None:
            self._complain(f"the handler of {text_of(subject)} raised {error!r}")

    # Sending: plain calls, in order.

    def post(
        self, subject: str, data: bytes | bytearray, reply: str = "", headers: bytes = b""
    ) -> None:
        """Queue one message; the flusher writes it in this turn of the loop."""
        if headers:
            size = len(headers)
            self._pending.append(
                f"HPUB {subject} {reply} {size} {size + len(data)}\r\n".encode() + headers
            )
        else:
            self._pending.append(f"PUB {subject} {reply} {len(data)}\r\n".encode())
        self._pending.append(data)  # type: ignore[arg-type]  # it is only written
        self._pending.append(b"\r\n")
        self._pending_data_size += len(data) + len(headers) + 64
        _wake(self._flush_queue, self._flushed)

    def _command(self, line: str) -> None:
        self._pending.append(line.encode())
        self._pending_data_size += len(line)
        _wake(self._flush_queue, self._flushed)

    def attach(self, subject: str, handler: RawHandler, queue: str = "") -> int:
        """Subscribe; the answer is the id for `detach`."""
        self._sid += 1
        self._handlers[self._sid] = handler
        self._command(f"SUB {subject} {queue} {self._sid}\r\n")
        return self._sid

    def detach(self, sid: int) -> None:
        if self._handlers.pop(sid, None) is not None and self.lost_reason is None:
            self._command(f"UNSUB {sid}\r\n")

    def retire(self, sid: int, last: RawHandler) -> None:
        """Unsubscribe; what is still on its way goes to `last`."""
        if sid not in self._handlers or self.lost_reason is not None:
            return
        self._handlers[sid] = last
        self._command(f"UNSUB {sid}\r\n")
        self._ping().add_done_callback(lambda _: self._handlers.pop(sid, None))

    async def room(self) -> None:
        """Wait while more than 2 MiB have not been taken by the socket."""
        if self._pending_data_size > ROOM and self._flush_queue is not None:
            flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flush_queue.put_nowait(flushed)
            await flushed

    async def barrier(self, timeout_s: float) -> bool:
        """Whether the fabric has worked on everything sent before; False when lost or late."""
        return self.lost_reason is None and await in_time(self._ping(), timeout_s)


def _limit_unacknowledged(transport: object, seconds: float) -> None:
    # A black hole with unsent bytes would otherwise hold for 15 minutes.
    writer = getattr(transport, "_bare_io_writer", None)
    raw = writer.get_extra_info("socket") if writer is not None else None
    if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = max(1000, int(seconds * 1000))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _wake(
    flushes: asyncio.Queue[asyncio.Future[None]] | None, nobody: asyncio.Future[None]
) -> None:
    """Have the flusher write in this turn of the loop, once."""
    if flushes is not None and flushes.empty():
        flushes.put_nowait(nobody)


def _release(
    pongs: list[asyncio.Future[bool]], flushes: asyncio.Queue[asyncio.Future[None]] | None
) -> None:
    """Let go whoever waits for an answer or for room on a connection that is over."""
    for pong in pongs:
        if not pong.done():
            pong.set_result(False)
    pongs.clear()
    while flushes is not None and not flushes.empty():
        flushed = flushes.get_nowait()
        if not flushed.done():
            flushed.set_result(None)


def _as_ours(url: str, name: str, error: Exception) -> QuarterdeckError:
    if isinstance(error, QuarterdeckError):
        return error
    text = str(error) or type(error).__name__
    if "authorization violation" in text.lower() or "authentication" in text.lower():
        return not_admitted(url, name)
    return not_reached(url, text)
