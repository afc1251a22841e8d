"""Socket.IO v4, namespace `/trace`: for pages and programs that speak it.

Who connects says `authenticate` with a token, then `attach` and `detach` names; what happens under
them comes as `workerIn`, `start`, `data`, `eof` and `workerOut`. Who names a trace, with a token
that may send, is a sender by `data`, `eof` and `bye`. The names are those of an older system, so
that its embedders feel at home; docs/reference/watching.md has them all.

Backpressure: a client is sent no more than it takes; what it does not take in time is read again
from the window, as for every watcher.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import socketio

from quarterdeck.api.front import Receive, Scope, Send, query, turn_away
from quarterdeck.api.origins import Origins
from quarterdeck.api.stream import voided
from quarterdeck.api.trace_socket import SocketSender
from quarterdeck.api.trace_watch import Wish, admitted
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.control.trace.view import (
    VANISHED,
    TraceBegan,
    TraceMissing,
    TraceOutput,
    TracePresent,
    TraceSeen,
    TraceTurned,
    TraceVanished,
)
from quarterdeck.core import traced
from quarterdeck.core.trace import LOST, End, Trace
from quarterdeck.core.trace_cursor import Cursor
from quarterdeck.errors import Denied, Invalid, QuarterdeckError
from quarterdeck.service import guarded, sentence
from quarterdeck.store.access import Principal

NAMESPACE = "/trace"
MOST_NAMES = 32
MESSAGE_BYTES = 2 << 20
TYPES = {"stdout": "STDOUT", "stderr": "STDERR"}


class Session:
    """One connection: who it is, which names it watches, and what it sends."""

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.namespace: str | None = None
        self.sender: SocketSender | None = None
        self.watching: dict[str, asyncio.Task[None]] = {}
        self.cutting: asyncio.Task[None] | None = None
        self.gone = False


class TraceNamespace(socketio.AsyncNamespace):  # type: ignore[misc]
    """The events of the namespace; python-socketio calls `on_EVENT`."""

    def __init__(self, server: Server) -> None:
        super().__init__(NAMESPACE)
        self._server = server
        self._sessions: dict[str, Session] = {}

    async def on_connect(self, sid: str, _environ: object, auth: object = None) -> None:
        self._sessions[sid] = Session()
        if isinstance(auth, dict) and auth.get("token"):
            await self.on_authenticate(sid, auth)

    async def on_disconnect(self, sid: str, _reason: object = None) -> None:
        session = self._sessions.pop(sid, None)
        if session is None:
            return
        session.gone = True
        for task in (*session.watching.values(), session.cutting):
            if task is not None and task is not asyncio.current_task():  # which disconnects it
                task.cancel()
        if session.sender is not None:
            await guarded(session.sender.broken_off(), lambda _: None)

    async def on_authenticate(self, sid: str, said: object = None) -> dict[str, Any]:
        async def work(session: Session) -> dict[str, Any]:
            given = said if isinstance(said, dict) else {"token": said}
            await self._server.progress.until(Stage.WHOLE)
            principal = await self._server.principal(str(given.get("token", "")))
            if principal.kind not in ("api", "watch", "send"):
                raise Denied("wrong_token", f"A token of kind {principal.kind} is for no trace.")
            if session.gone:
                return {}  # meanwhile; nobody would end what is begun now
            if session.principal is not None:
                raise Invalid("authenticated", "This connection has said who it is already.")
            namespace = given.get("namespace")
            session.namespace = principal.at(str(namespace) if namespace else None).namespace
            session.principal = principal
            session.cutting = self._server.services.spawn(
                self._cut(sid, principal.id), "token of a Socket.IO client"
            )
            if given.get("name") and principal.kind != "watch":
                await self._begin(session, principal, session.namespace, given)
            answer = {"namespace": session.namespace, "kind": principal.kind}
            await self.emit("authenticated", answer, to=sid)
            return answer

        return await self._answered(sid, work, known=False)

    async def _begin(
        self, session: Session, principal: Principal, namespace: str, given: dict[str, Any]
    ) -> None:
        sender = await SocketSender.begin(self._server, principal, namespace, given)
        if session.gone:
            await sender.broken_off()
        else:
            session.sender = sender

    async def on_attach(self, sid: str, said: object = None) -> dict[str, Any]:
        async def work(session: Session) -> dict[str, Any]:
            given = said if isinstance(said, dict) else {"name": said}
            name = str(given.get("name", ""))
            assert session.principal is not None
            wish = Wish(
                namespace=admitted(session.principal, name, session.namespace),
                name=name,
                sender=str(given.get("id") or "")[:255],
                after=str(given.get("after") or ""),
                forever=True,
            )
            for other in [n for n, task in session.watching.items() if task.done()]:
                del session.watching[other]  # it met a problem, and may be asked for again
            if name in session.watching:
                return {"name": name}
            if len(session.watching) >= MOST_NAMES:
                raise Invalid("too_many", f"One connection watches at most {MOST_NAMES} names.")
            cursor = Cursor.parse(wish.after) if wish.after else Cursor()
            self._server.trace_watching.crowd.check()
            session.watching[name] = self._server.services.spawn(
                self._watch(sid, wish, cursor), f"Socket.IO viewer of {name}"
            )
            return {"name": name}

        return await self._answered(sid, work)

    async def on_detach(self, sid: str, said: object = None) -> dict[str, Any]:
        async def work(session: Session) -> dict[str, Any]:
            name = str(said.get("name", "") if isinstance(said, dict) else said)
            task = session.watching.pop(name, None)
            if task is not None:
                task.cancel()
            return {"name": name}

        return await self._answered(sid, work)

    async def on_data(self, sid: str, said: object = None) -> dict[str, Any]:
        async def work(session: Session) -> dict[str, Any]:
            return {"bytes": await _sender(session).data(said)}

        return await self._answered(sid, work)

    async def on_eof(self, sid: str, said: object = None) -> dict[str, Any]:
        async def work(session: Session) -> dict[str, Any]:
            await _sender(session).eof(said)
            return {}

        return await self._answered(sid, work)

    async def on_bye(self, sid: str, _said: object = None) -> None:
        async def work(session: Session) -> dict[str, Any]:
            if session.sender is not None:
                await session.sender.eof({})
            return {}

        await self._answered(sid, work)
        await self.disconnect(sid)

    async def _answered(
        self,
        sid: str,
        work: Callable[[Session], Awaitable[dict[str, Any]]],
        *,
        known: bool = True,
    ) -> dict[str, Any]:
        """The answer of a call; an error is told in it, and as the event `problem`."""

        async def checked() -> dict[str, Any]:
            session = self._sessions.get(sid)
            if session is None or (known and session.principal is None):
                raise Denied("no_token", "Say who you are first: emit `authenticate` with a token.")
            return {"ok": True, **await work(session)}

        answer = await guarded(checked(), _problem)
        if not answer["ok"]:
            await self.emit("problem", answer, to=sid)
        return answer

    async def _watch(self, sid: str, wish: Wish, cursor: Cursor) -> None:
        crowd = self._server.trace_watching.crowd

        async def work() -> dict[str, Any] | None:
            crowd.enter()
            try:
                seen = self._server.trace_watching.watch(
                    wish.namespace, wish.name, cursor, sender=wish.sender, forever=True
                )
                async with aclosing(seen):
                    async for one in seen:
                        for event, body in _told(wish.name, one):
                            await self._send(sid, event, body)
            finally:
                crowd.leave()
            return None

        problem = await guarded(work(), _problem)
        if problem is not None:
            await self.emit("problem", {**problem, "name": wish.name}, to=sid)

    async def _send(self, sid: str, event: str, body: dict[str, Any]) -> None:
        """Hand an event over once the client has taken those before."""
        await self.emit(event, body, to=sid)
        found = self.server.manager.eio_sid_from_sid(sid, NAMESPACE)
        socket = self.server.eio.sockets.get(found)
        if socket is not None:
            await socket.queue.join()

    async def _cut(self, sid: str, token: str) -> None:
        with self._server.streaming.by(token) as cut:
            await cut.wait()
        await self.emit("problem", _problem(voided()), to=sid)
        await self.disconnect(sid)


class SocketIo:
    """The application at `/socket.io/`."""

    def __init__(self, server: Server, origins: Origins, path: str) -> None:
        self._server = server

        def admits(origin: str | None, environ: dict[str, Any]) -> bool:
            return origins.admits(origin, environ.get("HTTP_HOST", ""), server.url)

        self._sio = socketio.AsyncServer(
            async_mode="asgi",
            cors_allowed_origins=admits,
            cors_credentials=False,
            max_http_buffer_size=MESSAGE_BYTES,
            logger=False,
            engineio_logger=False,
        )
        # its tasks are ours: they end with the server
        self._sio.eio.start_background_task = self._spawn
        self._sio.register_namespace(TraceNamespace(server))
        self._app = socketio.ASGIApp(self._sio, socketio_path=path)

    def _spawn(self, target: Callable[..., Any], *args: Any, **more: Any) -> asyncio.Task[Any]:
        return self._server.services.spawn(target(*args, **more), "Socket.IO")

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if query(scope).get("EIO") == "3":
                raise Invalid(
                    "engine_io",
                    "This client speaks Engine.IO 3 (Socket.IO 2 or older); this server speaks "
                    "Engine.IO 4: use socket.io-client 3 or 4.",
                )
        except Invalid as error:
            if scope["type"] == "websocket":
                await receive()
            await turn_away(scope, send, error)
            return
        await self._app(scope, receive, send)

    async def stop(self) -> None:
        """Nobody is connected any more."""
        for socket in list(self._sio.eio.sockets.values()):  # whoever does not poll takes no word
            await guarded(socket.close(wait=False, abort=True), lambda _: None)
        await self._sio.shutdown()


def _sender(session: Session) -> SocketSender:
    if session.sender is None:
        raise Denied(
            "no_sender",
            "This connection sends nothing: authenticate with a token of kind send, a `name` and "
            "an `id`.",
        )
    return session.sender


def _problem(error: Exception) -> dict[str, Any]:
    if isinstance(error, QuarterdeckError):
        return {"ok": False, "code": error.code, "message": error.message}
    return {"ok": False, "code": "internal", "message": f"The server met {sentence(error)}."}


def _told(name: str, seen: TraceSeen) -> list[tuple[str, dict[str, Any]]]:
    """What a watcher saw, as events."""
    match seen:
        case TraceBegan(trace=trace):
            who = {"name": name, "from": trace.sender, "trace": trace.id}
            return [("workerIn", who), ("start", {**who, **_start(trace)})]
        case TraceOutput(trace=trace, chunk=chunk):
            data: dict[str, Any] = {"type": TYPES[chunk.stream], "offset": chunk.offset}
            try:
                data["data"] = chunk.data.decode()
            except UnicodeDecodeError:
                data["base64"] = base64.b64encode(chunk.data).decode()
            return [("data", {"name": name, "from": trace.sender, "trace": trace.id, "data": data})]
        case TraceMissing(trace=trace, missing=missing):
            return [
                (
                    "gap",
                    {
                        "name": name,
                        "from": trace.sender,
                        "trace": trace.id,
                        "type": TYPES[missing.stream],
                        "bytes": missing.count,
                        "reason": missing.reason,
                    },
                )
            ]
        case TraceTurned(trace=trace, outcome=outcome):
            who = {"name": name, "from": trace.sender, "trace": trace.id}
            if outcome is None:
                return [("workerIn", who)]
            end = trace.end or End()
            message = LOST if trace.lost else end.message
            body = {"code": traced.exit_code(trace), "signal": end.signal, "message": message}
            told = {key: value for key, value in body.items() if value or key == "code"}
            return [("eof", {**who, **told}), ("workerOut", who)]
        case TraceVanished(trace=id):
            who = {"name": name, "from": "", "trace": id}
            return [("eof", {**who, "code": None, "message": VANISHED}), ("workerOut", who)]
        case TracePresent():
            return [("present", {"name": name})]
        case _:
            return []


def _start(trace: Trace) -> dict[str, Any]:
    start = trace.start
    return {
        "host": start.host,
        "user": start.user,
        "cwd": start.cwd,
        "command": list(start.command),
        "title": traced.title(trace),
        "startedAt": trace.started_at.isoformat(),
    }
