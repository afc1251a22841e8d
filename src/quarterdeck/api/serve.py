"""The server process: control and HTTP together, from start to drained stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import socket
from pathlib import Path

from quarterdeck.api.app import HttpServer
from quarterdeck.api.first import first_tokens
from quarterdeck.api.listen import bind, url_for_others
from quarterdeck.api.relay import far_of
from quarterdeck.api.tls import RENEW_EVERY_S, Certificate
from quarterdeck.control.main import Server
from quarterdeck.service import Clock, SystemClock, first_of, until_told
from quarterdeck.settings import ServerSettings, split_listen
from quarterdeck.telemetry import Telemetry
from quarterdeck.telemetry.lines import log_to

_M_ARENA_MAX = -8
_ARENAS = 2
_YOUNG, _MIDDLE, _OLD = 50_000, 20, 50


async def serve(
    settings: ServerSettings,
    *,
    listener: socket.socket | None,
    parent_fd: int | None,
    names: tuple[str, ...] = (),
) -> None:
    """Run until a signal or the end of the supervisor. `names` are names and addresses of this
    machine. Raises Conflict when the port is taken."""
    _share_arenas()
    _collect_seldom()
    telemetry = Telemetry()
    telemetry.subscribe(log_to(level=settings.log_level))
    listener = listener or bind(settings.listen)
    listener.setblocking(False)
    clock = SystemClock()
    server = Server(settings, telemetry=telemetry, clock=clock)
    certificate = Certificate(settings, names, clock.now())
    shown = certificate.shown
    server.certificate, server.fingerprint = shown.pem, shown.fingerprint
    tokens = Path(settings.data) / "tokens"
    if not tokens.exists():  # what an operator laid down there stays
        first_tokens(tokens, fingerprint=shown.fingerprint)
    host, _ = split_listen(settings.listen)
    server.url = settings.public_url or url_for_others(
        listener, host, tls=shown.context is not None
    )
    http = HttpServer(
        server,
        listener,
        tls=shown.context,
        far=far_of(settings.websocket_url, server.parts.fabric_tls),
    )
    server.services.loop("certificate", lambda: _renew(certificate, clock))
    try:
        await first_of(_start(server, http), until_told(parent_fd))
    finally:
        await http.stop()
        await server.stop()


async def _renew(certificate: Certificate, clock: Clock) -> None:
    """Loop: waits for a tick of `RENEW_EVERY_S` only."""
    while True:
        await asyncio.sleep(RENEW_EVERY_S)
        certificate.look_again(clock.now())


async def _start(server: Server, http: HttpServer) -> None:
    """HTTP first: while the fabric or the database is away, callers are told so."""
    await http.start()
    await server.start()


def _collect_seldom() -> None:
    """A server makes millions of short-lived records and hardly a cycle: by default every 700 new
    ones are searched for cycles, and with them again and again all that the fleet's state holds."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def _share_arenas() -> None:
    """glibc gives threads heaps of their own, and each keeps what a burst of output once took:
    after 1.6 GB of it 290 MiB stayed instead of 130. Other C libraries have no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
