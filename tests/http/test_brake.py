"""Who fails to join again and again is told to wait, and an agent waits as long as it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.agent.main import Agent
from quarterdeck.core.brake import FREE
from quarterdeck.fabric.identity import Identity
from quarterdeck.service import SystemClock, first_of
from quarterdeck.settings import AgentSettings, Secret
from quarterdeck.telemetry import ServerLost, Telemetry
from quarterdeck.wire.enrol import signed_part
from tests.contracts.fabric_server import harbour
from tests.http.http_host import Answer, HttpHost, answering
from tests.integration.server_host import JOIN, Ears

WRONG = "qd_join_0000000000000009_" + "f" * 32
DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def answering_host(root: Path, **settings: Any) -> AsyncIterator[HttpHost]:
    async with harbour(root) as place, answering(place.root, place.server.url, **settings) as host:
        yield host


async def enrol(host: HttpHost, key: Identity, token: str, through: str = "") -> Answer:
    part = signed_part(key.public_key, "n", token)
    body = {
        "public_key": key.public_key,
        "name": "n",
        "signature": base64.b64encode(key.sign(part)).decode(),
        "token": token,
    }
    return await host.ask("/v1/enrol", method="POST", body=body, token="", through=through)


async def test_who_fails_often_waits_and_nobody_else_does(tmp_path: Path) -> None:
    async with answering_host(tmp_path) as host:
        known = Identity.fresh()
        assert (await enrol(host, known, JOIN, "192.0.2.1")).status == 200
        for _ in range(FREE + 1):
            refused = await enrol(host, Identity.fresh(), WRONG, "192.0.2.1")
            assert (refused.status, refused.json["code"]) == (403, "bad_token") or (
                refused.status == 401
            )
        held = await enrol(host, Identity.fresh(), JOIN, "192.0.2.1")
        assert (held.status, held.json["code"]) == (429, "too_many_failures")
        assert int(held.headers["retry-after"]) >= 1
        assert "192.0.2.1" in held.json["detail"] and "try again in" in held.json["detail"]
        assert (await enrol(host, known, "", "192.0.2.1")).status == 200  # it renews its pass
        assert (await enrol(host, Identity.fresh(), JOIN, "192.0.2.2")).status == 200


async def test_leaf_nodes_and_nodes_have_one_brake(tmp_path: Path) -> None:
    async with answering_host(tmp_path) as host:
        key = Identity.fresh()
        signature = base64.b64encode(key.sign(b"something else")).decode()
        body = {"public_key": key.public_key, "token": WRONG, "signature": signature}
        for _ in range(FREE + 1):
            answer = await host.ask("/v1/leaf", method="POST", body=body, token="")
            assert answer.json["code"] == "bad_signature"
        assert (await enrol(host, Identity.fresh(), JOIN)).status == 429


async def test_only_a_trusted_proxy_says_who_calls(tmp_path: Path) -> None:
    async with answering_host(tmp_path, trusted_proxies="198.51.100.0/24") as host:
        for n in range(FREE + 1):
            assert (await enrol(host, Identity.fresh(), WRONG, f"192.0.2.{n}")).status != 429
        held = await enrol(host, Identity.fresh(), WRONG, "192.0.2.99")
        assert held.status == 429 and "127.0.0.1" in held.json["detail"]


class Turnstile:
    """Answers every request with 429 and notes when it came."""

    def __init__(self, after: str) -> None:
        self._after = after
        self.came: asyncio.Queue[float] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r")[0]
            await reader.readexactly(int(length))
            self.came.put_nowait(time.monotonic())
            problem = b'{"code": "too_many_failures", "detail": "Wait."}'
            writer.write(
                b"HTTP/1.1 429 Too Many\r\nRetry-After: %s\r\nContent-Length: %d\r\n\r\n%s"
                % (self._after.encode(), len(problem), problem)
            )
            await writer.drain()
        writer.close()


@pytest.mark.parametrize(("after", "least_s"), [("1", 1.0), ("soon", 0.0), ("-7", 0.0)])
async def test_an_agent_comes_again_when_it_was_told_to(
    tmp_path: Path, after: str, least_s: float
) -> None:
    gate, ears, telemetry = Turnstile(after), Ears(), Telemetry()
    telemetry.subscribe(ears.hear)
    async with await asyncio.start_server(gate.serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        settings = AgentSettings(
            state=str(tmp_path / "state"),
            join=f"http://127.0.0.1:{port}",
            token=Secret(WRONG),
            name="web1",
        )
        agent = Agent(settings, telemetry=telemetry, clock=SystemClock())

        async def twice() -> str:
            async with asyncio.timeout(DEADLINE_S):
                first = await gate.came.get()
                assert await gate.came.get() - first >= least_s
            return (await ears.until(ServerLost)).error

        try:
            assert await first_of(agent.start(), twice()) == "Wait."
        finally:
            await agent.stop()
