"""The HTTP application: routes, guard, problem documents; and the process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from litestar import Litestar, Request, Response, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from quarterdeck.api import (
    access,
    again,
    agentless,
    download,
    fold,
    lock,
    node,
    observe,
    pages,
    preview,
    run,
    status,
    trace,
    trace_watch,
    upload,
)
from quarterdeck.api.auth import require_stage, require_token
from quarterdeck.api.body import StrictRequest
from quarterdeck.api.cut import cutting
from quarterdeck.api.describe import describe
from quarterdeck.api.front import Front
from quarterdeck.api.hide import hiding
from quarterdeck.api.measure import measured
from quarterdeck.api.methods import allowed
from quarterdeck.api.origins import Origins, frame_ancestors, listed
from quarterdeck.api.patience import Patience, PatientProtocol
from quarterdeck.api.relay import PATHS, Far, Relays, relaying
from quarterdeck.api.schema import Problem
from quarterdeck.api.shelf import shelf_at
from quarterdeck.api.trace_sio_late import LateSocketIo
from quarterdeck.api.trace_watch import TraceSockets
from quarterdeck.control.main import Server
from quarterdeck.core.model import MAX_ORDER_BYTES
from quarterdeck.errors import Broken, Denied, QuarterdeckError
from quarterdeck.service import sentence
from quarterdeck.settings import proxies
from quarterdeck.telemetry import RequestFailed

BODY_LIMIT = 2 * MAX_ORDER_BYTES
SOCKET_MESSAGE_BYTES = 2 << 20
HEAD_LIMIT = 64 << 10  # the id of an event may name hundreds of attempts
DRAIN_S = 5.0
RETRY_AFTER_S = "1"
HttpRequest = Request[object, object, State]


def application(server: Server | None) -> Litestar:
    """The ASGI application over a server's services; without a server only to be described."""
    shelf = shelf_at("" if server is None else server.settings.downloads)
    app = Litestar(
        route_handlers=[
            run.router,
            fold.router,
            again.router,
            lock.router,
            node.router,
            preview.router,
            observe.router,
            access.router,
            agentless.router,
            trace.router,
            upload.router,
            download.router,
            trace_watch.router,
            # one router for one path: of two each would answer OPTIONS
            Router(
                path="/", route_handlers=[pages.trace_page, pages.page_file, upload.upload_short]
            ),
            observe.pages,
            status.router,
        ],
        guards=[require_stage, require_token],
        dependencies={
            "server": Provide(lambda: server, sync_to_thread=False),
            "shelf": Provide(lambda: shelf, sync_to_thread=False),
        },
        request_class=StrictRequest,
        exception_handlers={
            QuarterdeckError: _problem,
            HTTPException: _http_problem,
            RecursionError: _unreadable,
            UnicodeDecodeError: _unreadable,
            Exception: _unexpected,
        },
        cors_config=_cors(server),
        openapi_config=OpenAPIConfig(
            title="quarterdeck", version="1", render_plugins=[JsonRenderPlugin()]
        ),
        request_max_body_size=BODY_LIMIT,
        logging_config=None,
        debug=False,
    )
    app.state.server = server
    return app


def _cors(server: Server | None) -> CORSConfig | None:
    """What a browser is told that runs a page of another site."""
    origins = listed(server.settings.cors_origins, "cors_origins") if server is not None else ()
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "Trace-Key"],
        max_age=600,
    )


def openapi() -> dict[str, Any]:
    """The description of the API, as `/openapi.json` answers it."""
    return describe(application(None))


def _answer(error: QuarterdeckError, status: int | None = None) -> Response[Problem]:
    position, acked = error.detail.get("position"), error.detail.get("acked")
    problem = Problem(
        type=f"urn:quarterdeck:{error.code}",
        title=error.title,
        status=status or error.http_status,
        code=error.code,
        detail=error.message,
        position=position if isinstance(position, int) else None,
        acked=acked if isinstance(acked, dict) else None,
    )
    return Response(
        problem,
        status_code=problem.status,
        media_type="application/problem+json",
        headers=_when_again(error, problem.status),
    )


def _when_again(error: QuarterdeckError, status: int) -> dict[str, str] | None:
    after_s = error.detail.get("retry_after_s")
    if isinstance(after_s, int):
        return {"Retry-After": str(after_s)}
    return {"Retry-After": RETRY_AFTER_S} if status == 503 else None


def _problem(_request: HttpRequest, error: QuarterdeckError) -> Response[Problem]:
    unauthenticated = isinstance(error, Denied) and error.code in ("no_token", "bad_token")
    return _answer(error, 401 if unauthenticated else None)


def _http_problem(request: HttpRequest, error: HTTPException) -> Response[Problem]:
    text = error.detail
    if isinstance(error, ValidationException) and error.extra:
        parts = [_complaint(part) for part in error.extra]
        text = "; ".join(part for part in parts if part) or text
    words = {404: "no_route", 405: "method", 413: "too_large"}
    if error.status_code == 413:
        limit = request.route_handler.resolve_request_max_body_size() or BODY_LIMIT
        text = f"The request is larger than {limit} bytes."
    code = words.get(error.status_code, "invalid_request")
    answer = _answer(QuarterdeckError(code, text), error.status_code)
    if error.status_code == 405:
        answer.headers["Allow"] = allowed(request.app.routes, request.scope["path"])
    return answer


def _unreadable(_request: HttpRequest, error: Exception) -> Response[Problem]:
    what = "nests too deeply" if isinstance(error, RecursionError) else "is not valid UTF-8"
    return _answer(QuarterdeckError("unreadable", f"The body can't be read: it {what}."), 400)


def _complaint(part: object) -> str:
    if isinstance(part, dict):
        return f"{part.get('key', '')}: {part.get('message', '')}".strip(": ")
    return str(part)


def _unexpected(request: HttpRequest, error: Exception) -> Response[Problem]:
    server: Server = request.app.state.server
    server.telemetry.emit(
        RequestFailed(method=request.method, path=request.url.path, error=sentence(error))
    )
    broken = Broken("internal", "The server met an error of its own; its log says more.")
    return _answer(broken)


class _Uvicorn(uvicorn.Server):
    """uvicorn inside our loop: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Listens, serves, drains. `start` returns when requests are answered. `sockets` is where
    WebSockets are answered: by doors of ours, or carried to the fabric."""

    def __init__(
        self,
        server: Server,
        listener: socket.socket,
        *,
        patience: Patience | None = None,
        tls: ssl.SSLContext | None = None,
        far: Far | None = None,
    ) -> None:
        """`far` is where the fabric's WebSocket is; without it `/fabric` is unknown here."""
        origins = Origins(listed(server.settings.cors_origins, "cors_origins"))
        frame_ancestors(server.settings.frame_ancestors)
        self._socketio = LateSocketIo(server, origins)
        doors = (TraceSockets(server, origins).door, self._socketio.door)
        self.sockets = (*(path for door in doors for path in door.paths), *PATHS)
        relays = Relays(far, server.settings.max_links, server.services, server.telemetry)
        routes: Any = measured(application(server), server)
        self._server = server
        self._socket = listener
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                hiding(Front(cutting(routes, server.streaming), doors)),
                # only called, as uvicorn calls a class
                http=partial(  # type: ignore[arg-type]
                    PatientProtocol,
                    patience=patience or Patience(),
                    upgrade=relaying(relays, WSProtocol),
                ),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=int(DRAIN_S),
                ws=WSProtocol,
                ws_max_size=SOCKET_MESSAGE_BYTES,
                ws_per_message_deflate=False,  # hundreds of KiB for each watcher
                h11_max_incomplete_event_size=HEAD_LIMIT,
                server_header=False,
                forwarded_allow_ips=list(proxies(server.settings.trusted_proxies)),
                ssl_context_factory=None if tls is None else lambda *_: tls,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._serving = self._server.services.spawn(
            self._uvicorn.serve(sockets=[self._socket]), "http"
        )
        while not self._uvicorn.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """End live streams, finish what is being answered, close."""
        self._server.draining.set()
        await self._socketio.stop()
        self._uvicorn.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving], timeout=DRAIN_S + 1)
            self._serving = None
