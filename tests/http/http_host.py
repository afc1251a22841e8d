"""A server with its HTTP face inside the test, and requests to it over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from litestar.utils.signature import ParsedSignature

from quarterdeck.api.app import HttpServer
from quarterdeck.api.listen import bind
from quarterdeck.api.patience import Patience
from quarterdeck.api.relay import Far
from quarterdeck.control.main import Server
from quarterdeck.service import SystemClock
from quarterdeck.settings import ServerSettings
from quarterdeck.telemetry import Telemetry
from tests.integration.server_host import JOIN, Ears

API = "qd_api_0000000000000001_" + "1" * 32

# weak: a provider of a server is one of these, and would keep it and what it left open
_parsed: WeakKeyDictionary[Any, ParsedSignature] = WeakKeyDictionary()
_parse = ParsedSignature.from_fn


def _parse_once(fn: Any, namespace: dict[str, Any]) -> ParsedSignature:
    """Litestar parses what all handlers take for each application, half of the time in which one
    is made; here are as many as tests."""
    if namespace:
        return _parse(fn, namespace)
    if fn not in _parsed:
        _parsed[fn] = _parse(fn, namespace)
    return _parsed[fn]


ParsedSignature.from_fn = _parse_once  # type: ignore[method-assign, assignment]


class Answer(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HttpHost:
    """The parts of one server, and a way to ask it."""

    def __init__(self, server: Server, http: HttpServer, ears: Ears, port: int) -> None:
        self.server = server
        self.http = http
        self.ears = ears
        self.port = port

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        token: str = API,
        through: str = "",
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; `through` a proxy that names this address."""
        headers = dict(more or {})
        if body is not None:
            headers["Content-Type"] = "application/json"
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if through:
            headers["X-Forwarded-For"] = through
        return await asyncio.to_thread(self._ask, method, path, body, headers)

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            fields = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read())
        finally:
            connection.close()


@contextlib.asynccontextmanager
async def listening(
    root: Path,
    fabric_url: str,
    *,
    patience: Patience | None = None,
    far: Far | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[HttpHost, asyncio.Task[None]]]:
    """A server that answers HTTP, and the task of its start."""
    data = root / "server"
    data.mkdir(exist_ok=True)
    (data / "tokens").write_text(f"{API}\n{JOIN}\n")
    ears = Ears()
    telemetry = Telemetry()
    telemetry.subscribe(ears.hear)
    given = ServerSettings(
        data=str(data), fabric_url=fabric_url, keys=str(root / "authority"), **settings
    )
    listener = bind("127.0.0.1:0")
    server = Server(given, telemetry=telemetry, clock=SystemClock())
    http = HttpServer(server, listener, patience=patience, far=far)
    starting: asyncio.Task[None] | None = None
    try:
        await http.start()
        starting = asyncio.get_running_loop().create_task(server.start(), name="start")
        yield HttpHost(server, http, ears, int(listener.getsockname()[1])), starting
    finally:
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        await http.stop()
        await server.stop()
        listener.close()


@contextlib.asynccontextmanager
async def answering(root: Path, fabric_url: str, **settings: Any) -> AsyncIterator[HttpHost]:
    """A server that is ready."""
    async with listening(root, fabric_url, **settings) as (host, starting):
        await starting
        yield host
