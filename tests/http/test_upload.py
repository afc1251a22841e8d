"""Traces without a client: what curl uploads, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.api.patience import Patience
from quarterdeck.telemetry.trace import TraceBegan, TraceLost, TraceTaken
from tests.contracts.fabric_server import harbour
from tests.http.http_host import API, HttpHost, listening


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    """A server that has little patience with bodies."""
    patience = Patience(piece_s=0.3, body_s=0.6)
    async with (
        harbour(tmp_path) as place,
        listening(place.root, place.server.url, patience=patience) as (host, starting),
    ):
        await starting
        yield host


@contextlib.asynccontextmanager
async def curl(
    host: HttpHost, path: str, *, token: str = API
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`curl -T -` whose pipe the test holds."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    url = f"http://127.0.0.1:{host.port}{path}"
    process = await asyncio.create_subprocess_exec(
        program,
        *("-sS", "-T", "-", "-H", f"Authorization: Bearer {token}", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def the_trace(host: HttpHost, name: str) -> dict[str, Any]:
    (found,) = (await host.ask(f"/v1/traces?name={name}")).json["items"]
    return dict(found)


@pytest.mark.parametrize("path", ["/v1/trace/job", "/trace/job"])
async def test_what_curl_uploads_is_a_trace_live_until_its_end(host: HttpHost, path: str) -> None:
    async with curl(host, f"{path}?id=web-7&title=nightly&code=3") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"first\n")
        await host.ears.until(TraceTaken)
        found = await the_trace(host, "job")
        assert (found["id"], found["title"], found["state"]) == ("web-7", "nightly", "open")
        assert found["bytes"]["stdout"] <= 6
        over = host.server.clock.monotonic() + 1  # the patience with a body is over by then
        while host.server.clock.monotonic() < over:
            assert (await the_trace(host, "job"))["state"] == "open"
        process.stdin.write(b"last\n")
        process.stdin.close()
        assert b'"state":"ended"' in await process.stdout.read()
    found = await the_trace(host, "job")
    assert (found["state"], found["code"], found["bytes"]["stdout"]) == ("ended", 3, 11)
    output = await host.ask(f"/v1/runs/{found['trace']}/output")
    assert output.body == b"first\nlast\n"


async def test_an_upload_that_breaks_off_is_lost_at_once(host: HttpHost) -> None:
    async with curl(host, "/v1/trace/job?keep=true") as process:
        assert process.stdin is not None
        process.stdin.write(b"what came")
        await host.ears.until(TraceTaken)
        process.kill()
        began = host.server.clock.monotonic()
        await host.ears.until(TraceLost)
        assert host.server.clock.monotonic() - began < 3
    found = await the_trace(host, "job")
    assert (found["lost"], found["bytes"]["stdout"]) == (True, 9)


async def test_a_server_that_takes_long_to_begin_does_not_blame_the_sender(
    host: HttpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begin = asyncio.Event(), host.server.traces.begin

    async def slowly(*words: Any, **more: Any) -> Any:
        await gate.wait()
        return await begin(*words, **more)

    monkeypatch.setattr(host.server.traces, "begin", slowly)
    async with curl(host, "/v1/trace/job") as process:
        assert process.stdin is not None and process.stdout is not None
        with pytest.raises(TimeoutError):  # longer than there is patience with a body
            async with asyncio.timeout(1.0):
                await process.wait()
        gate.set()
        process.stdin.write_eof()
        assert json.loads(await process.stdout.read())["state"] == "ended"


async def test_a_token_that_is_revoked_ends_its_uploads(host: HttpHost) -> None:
    made = await host.ask("/v1/tokens", method="POST", body={"kind": "send"})
    async with curl(host, "/v1/trace/job", token=made.json["token"]) as process:
        assert process.stdin is not None and process.stdout is not None
        await host.ears.until(TraceBegan)
        await host.ask(f"/v1/tokens/{made.json['id']}", method="DELETE")
        await host.ears.until(TraceLost)
        process.stdin.write(b"more\n")  # curl looks for an answer when it has something to send
        assert b"token_revoked" in await process.stdout.read()
