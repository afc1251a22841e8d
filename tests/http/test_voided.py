"""What a voided token has open ends within a second; what stands in a query is told nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.store.access import Principal
from quarterdeck.telemetry import NodeSession, RequestFailed
from tests.contracts.fabric_server import harbour
from tests.http.http_host import HttpHost, answering
from tests.integration.server_host import HandNode

ROOT = Principal("root", "api", "*")
KEY = "0" * 32
WITHIN_S = 3.0  # 1 s on a machine that has nothing else to do
DEADLINE_S = 20.0


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with (
        harbour(tmp_path) as place,
        answering(place.root, place.server.url) as found,
    ):
        node = HandNode(place, found.server, "hand")
        await node.join()
        await found.ears.until(NodeSession)
        yield found
        await node.fabric.stop()
        assert not found.ears.all(RequestFailed)


class Open:
    """A request that is under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def end(self) -> bytes:
        """All that still comes until the server ends the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b"reset"
            finally:
                self.writer.close()


async def begin(host: HttpHost, head: str, token: str, body: bytes = b"") -> Open:
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    lines = f"{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTrace-Key: {KEY}\r\n"
    lines += "Content-Length: 1000000\r\n" if body else "Connection: close\r\n"
    writer.write(lines.encode() + b"\r\n" + body)
    await writer.drain()
    return Open(reader, writer)


async def trace(host: HttpHost, token: str) -> str:
    body = {"name": "deploy", "id": "web1", "key": KEY}
    made = await host.ask("/v1/traces", method="POST", body=body, token=token)
    assert made.status == 201, made.json
    return str(made.json["trace"])


async def start(host: HttpHost, target: str) -> str:
    """A run: on `hand` it waits for a node that does not answer, on `none` it is over."""
    order = {"target": target, "argv": ["true"], "allow_empty": True}
    made = await host.ask("/v1/runs", method="POST", body=order)
    return str(made.json["id"])


class Doors:
    """Counts what the server looks after by token."""

    def __init__(self, host: HttpHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open: dict[str, int] = {}
        self._moved = asyncio.Event()
        self._told = host.server.streaming.told
        monkeypatch.setattr(host.server.streaming, "told", self.told)

    @contextlib.contextmanager
    def told(self, token: str, end: Callable[[], None]) -> Iterator[None]:
        with self._told(token, end):
            self._count(token, 1)
            try:
                yield
            finally:
                self._count(token, -1)

    def _count(self, token: str, by: int) -> None:
        self._open[token] = self._open.get(token, 0) + by
        self._moved.set()

    async def until(self, token: str, number: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self._open.get(token, 0) != number:
                self._moved.clear()
                await self._moved.wait()


@pytest.fixture
def doors(host: HttpHost, monkeypatch: pytest.MonkeyPatch) -> Doors:
    return Doors(host, monkeypatch)


async def test_a_revoked_token_ends_uploads_streams_and_who_waits(
    host: HttpHost, doors: Doors
) -> None:
    tokens = host.server.tokens
    (sender, send), (viewer, watch) = [
        await tokens.create(kind, by=ROOT) for kind in ("send", "watch")
    ]
    id, run = await trace(host, send), await start(host, "hand")
    upload = await begin(host, f"POST /v1/traces/{id}/segments", send, b"\x01\x00")
    stream = await begin(host, f"GET /v1/runs/{run}/events", watch)
    waiter = await begin(host, f"GET /v1/runs/{run}?wait=30s", watch)
    await doors.until(sender.id, 1)
    await doors.until(viewer.id, 3)  # the stream looks after itself, too
    began = time.monotonic()
    for token in (sender, viewer):
        await tokens.revoke(token.id, by=ROOT)
    answers = await asyncio.gather(upload.end(), stream.end(), waiter.end())
    took = time.monotonic() - began
    assert b"403" in answers[0] and b"token_revoked" in answers[0]
    assert b"event: run" in answers[1] and b"token_revoked" in answers[1]
    assert answers[2] in (b"", b"reset")
    assert took < WITHIN_S, took
    listed = await host.ask(f"/v1/traces/{id}")
    assert listed.json["bytes"] == {"stdout": 0, "stderr": 0}


async def test_a_token_that_expires_ends_its_upload(host: HttpHost) -> None:
    sender, send = await host.server.tokens.create("send", by=ROOT, expires_s=1)
    id = await trace(host, send)
    upload = await begin(host, f"POST /v1/traces/{id}/segments", send, b"\x01")
    answer = await upload.end()
    assert sender.expires_at is not None
    late_s = (host.server.clock.now() - sender.expires_at).total_seconds()
    assert b"token_revoked" in answer and 0 <= late_s < WITHIN_S


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is held has to be let go, not found: a server looks for garbage seldom."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_who_reads_nothing_is_cut_off_too(host: HttpHost, doors: Doors) -> None:
    viewer, watch = await host.server.tokens.create("watch", by=ROOT)
    run = await start(host, "hand")
    stuck = asyncio.Event()

    async def deaf(*_: object) -> None:
        await stuck.wait()  # as a socket whose other end takes nothing

    stream = await begin(host, f"GET /v1/runs/{run}/events", watch)
    await doors.until(viewer.id, 2)
    connections: Any = host.http._uvicorn.server_state.connections
    (protocol,) = [one for one in connections if one.cycle is not None]
    protocol.flow.drain = deaf
    protocol.flow.write_paused = True
    began = time.monotonic()
    await host.server.tokens.revoke(viewer.id, by=ROOT)
    await stream.end()
    assert time.monotonic() - began < WITHIN_S
    stuck.set()
    await doors.until(viewer.id, 0)


async def test_a_token_in_a_query_opens_streams_only_and_is_told_nowhere(
    host: HttpHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, text = await host.server.tokens.create("watch", by=ROOT)
    secret = text.split("_")[3]
    run = await start(host, "none")

    async def ask(path: str, **more: Any) -> tuple[int, str]:
        answer = await host.ask(path, token="", **more)
        return answer.status, answer.body.decode()

    query = f"access_token={text}"
    status, told = await ask(f"/v1/runs/{run}/events?follow=false&{query}")
    assert status == 200 and "event: run" in told
    answers = [told]
    for path, expected in (
        (f"/v1/runs/{run}?{query}", 401),
        (f"/v1/runs?{query}", 401),
        (f"/v1/tokens?{query}", 401),
        (f"/v1/runs/{run}/events?follow=maybe&{query}", 400),
        (f"/v1/runs/{run}/events?follow=maybe&access%5Ftoken={text}", 400),
        (f"/v1/runs/{run}/events?{query[:-1]}", 401),
        (f"/nosuch?{query}", 404),
    ):
        status, told = await ask(path)
        assert status == expected, (path, told)
        answers.append(told)
    both = await host.ask(f"/v1/runs/{run}/events?follow=false&{query}", token="qd_wrong")
    assert both.status == 401  # the header counts
    assert secret not in "".join(answers)
    assert secret not in caplog.text
    assert secret not in "".join(map(repr, host.ears.heard))
