"""What senders of traces may ask, and what they are answered, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.core.trace import Frame
from tests.contracts.fabric_server import harbour
from tests.http.http_host import HttpHost, answering
from tests.http.trace_sender import NOW_US, Sender


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        yield host


@pytest.mark.parametrize("keep", [False, True])
async def test_a_trace_begins_is_taken_and_ends(host: HttpHost, keep: bool) -> None:
    sender = Sender(host.port, keep=keep, host="web-1", command=["echo", "hi"])
    begun = await sender.begin()
    assert (begun.status, begun.json["acked"]) == (201, {"stdout": 0, "stderr": 0})
    assert begun.json["url"].endswith("/trace/deploy")
    assert (await sender.say(b"hello ")).json["acked"] == {"stdout": 6, "stderr": 0}
    assert (await sender.say(b"oh", "stderr")).json == {
        "acked": {"stdout": 6, "stderr": 2},
        "state": "open",
    }
    repeated = await sender.frames([Frame("stdout", 3, NOW_US, b"lo world")])
    assert repeated.json["acked"]["stdout"] == 11
    again = await sender.begin()
    assert (again.status, again.json["acked"]) == (200, {"stdout": 11, "stderr": 2})
    assert (await sender.end(code=3, stdout=11, stderr=2)).json == {"state": "ended"}
    assert (await sender.end(code=0)).json == {"state": "ended"}
    (listed,) = (await host.ask("/v1/traces?name=deploy")).json["items"]
    assert (listed["code"], listed["kept"], listed["command"]) == (3, keep, ["echo", "hi"])
    assert listed["bytes"] == {"stdout": 11, "stderr": 2}
    assert (await host.ask("/v1/traces?name=other")).json == {"items": [], "next": None}
