"""The server process: control and HTTP together, from start to drained stop."""

from __future__ import annotations

import socket

from quarterdeck.api.app import HttpServer
from quarterdeck.api.listen import bind
from quarterdeck.control.main import Server
from quarterdeck.service import SystemClock, first_of, until_told
from quarterdeck.settings import ServerSettings
from quarterdeck.telemetry import Telemetry, log_to


async def serve(
    settings: ServerSettings, *, listener: socket.socket | None, parent_fd: int | None
) -> None:
    """Run until a signal or the end of the supervisor. Raises Conflict when the port is taken."""
    telemetry = Telemetry()
    telemetry.subscribe(log_to(level=settings.log_level))
    listener = listener or bind(settings.listen)
    listener.setblocking(False)
    server = Server(settings, telemetry=telemetry, clock=SystemClock())
    http = HttpServer(server, listener)
    try:
        await first_of(_start(server, http), until_told(parent_fd))
    finally:
        await http.stop()
        await server.stop()


async def _start(server: Server, http: HttpServer) -> None:
    """HTTP first: while the fabric or the database is away, callers are told so."""
    await http.start()
    await server.start()
