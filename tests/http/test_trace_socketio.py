"""Socket.IO: the real client from npm watches and sends; who is refused gets a sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.api.trace_sio import TraceNamespace
from tests.clients.npm import NODE, installed
from tests.contracts.fabric_server import harbour
from tests.http.http_host import API, HttpHost, answering
from tests.http.trace_sender import Sender
from tests.http.trace_viewer import viewing

CLIENT = Path(__file__).parents[1] / "clients" / "watch"
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def modules() -> Path:
    return installed(CLIENT)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        yield host


async def client(
    modules: Path, host: HttpHost, role: str, *more: str, token: str = API
) -> AsyncIterator[tuple[str, Any]]:
    """The (event, body) that the client prints, until it leaves."""
    url = f"http://127.0.0.1:{host.port}"
    words = [str(CLIENT / "trace.cjs"), str(modules), url, token, role, *more]
    process = await asyncio.create_subprocess_exec(NODE, *words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for line in process.stdout:
                told = json.loads(line)
                yield told["event"], told["body"]
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_client_attaches_is_told_everything_and_detaches(
    modules: Path, host: HttpHost, transport: str
) -> None:
    sender = Sender(host.port, id="web-1", command=["make"])
    await sender.begin()
    await sender.say(b"one\n")
    events = []
    async for event, body in client(modules, host, "watch", "deploy", transport):
        events.append((event, body))
        if event == "present":
            await sender.say(b"\xff", "stderr")
            await sender.end(signal=15, message="enough")
    answers = [body for event, body in events if event == "answer"]
    assert [one.get("code") or one["ok"] for one in answers] == ["no_token", True, True, True]
    told = [(event, body) for event, body in events if event not in ("answer", "problem")]
    assert [event for event, _ in told] == [
        "authenticated", "workerIn", "start", "data", "present", "data", "eof", "workerOut",
        "disconnect",
    ]  # fmt: skip
    bodies = dict(reversed(told))
    who = {"name": "deploy", "from": "web-1", "trace": sender.trace}
    assert bodies["workerIn"] == who
    assert bodies["start"]["command"] == ["make"]
    assert bodies["data"] == {**who, "data": {"type": "STDOUT", "offset": 0, "data": "one\n"}}
    assert told[5][1] == {**who, "data": {"type": "STDERR", "offset": 0, "base64": "/w=="}}
    assert bodies["eof"] == {**who, "code": 143, "signal": 15, "message": "enough"}


async def test_the_client_sends_a_trace(modules: Path, host: HttpHost) -> None:
    answers = [b async for e, b in client(modules, host, "send", "deploy") if e == "answer"]
    assert [one.get("bytes") or one.get("code") or one["ok"] for one in answers] == [
        True, 7, 2, "stream", True,
    ]  # fmt: skip
    async with viewing(host.port, "deploy", "follow=false") as viewer:
        told = await viewer.rest()
    shown = [e.get("data") or e.get("data_b64") for e in told if e["type"] == "output"]
    assert shown == ["héllo\n", "AP8="]
    (end,) = [e for e in told if e["type"] == "task"]
    assert (end["node"], end["exit_code"], end["message"]) == ("page-1", 4, "as it should")


async def test_a_token_that_is_revoked_ends_the_connection(modules: Path, host: HttpHost) -> None:
    body = {"kind": "watch", "scope": "deploy"}
    made = (await host.ask("/v1/tokens", method="POST", body=body)).json
    events = []
    async for event, told in client(modules, host, "watch", "deploy", token=made["token"]):
        events.append((event, told))
        if event == "present":
            await host.ask(f"/v1/tokens/{made['id']}", method="DELETE")
    assert ("problem", "token_revoked") in [(e, b.get("code")) for e, b in events]
    assert events[-1][0] == "disconnect"


async def test_a_client_of_the_old_protocol_and_of_a_foreign_page_are_told_why(
    host: HttpHost,
) -> None:
    old = await host.ask("/socket.io/?EIO=3&transport=polling", token="")
    assert old.status == 400 and "socket.io-client 3 or 4" in old.json["detail"]
    foreign = {"Origin": "http://elsewhere.example"}
    asked = await host.ask("/socket.io/?EIO=4&transport=polling", token="", more=foreign)
    assert asked.status == 400
    many = "&".join(f"f{number}=" for number in range(200))
    asked = await host.ask(f"/socket.io/?EIO=4&transport=polling&{many}", token="")
    assert (asked.status, asked.json["code"]) == (400, "query")


class Mute(TraceNamespace):
    """Connections that are told nothing."""

    async def emit(self, *_args: Any, **_more: Any) -> None:
        return


class Leaving(Mute):
    """A connection that breaks while its trace begins."""

    async def _begin(self, *given: Any) -> None:
        await self.on_disconnect("one")
        await super()._begin(*given)


async def test_who_leaves_while_its_trace_begins_leaves_no_trace_open(host: HttpHost) -> None:
    namespace = Leaving(host.server)
    await namespace.on_connect("one", {})
    said = {"token": API, "name": "deploy", "id": "page"}
    assert (await namespace.on_authenticate("one", said))["ok"]
    (trace,) = (await host.ask("/v1/traces")).json["items"]
    assert trace["lost"]
    assert not [name for name in host.server.services.doing() if "Socket.IO" in name]


@pytest.mark.parametrize(
    ("command", "kept"), [(5, None), (["a", "\ud800"], ["a", "?"]), ("make", ["make"])]
)
async def test_the_command_of_a_sender_is_checked(
    host: HttpHost, command: object, kept: list[str] | None
) -> None:
    namespace = Mute(host.server)
    await namespace.on_connect("one", {})
    said = {"token": API, "name": "deploy", "command": command}
    answer = await namespace.on_authenticate("one", said)
    await namespace.on_disconnect("one")
    traces = (await host.ask("/v1/traces")).json["items"]
    assert (answer.get("code", "command") == "command") and (answer["ok"] is (kept is not None))
    assert [trace["command"] for trace in traces] == ([] if kept is None else [kept])
