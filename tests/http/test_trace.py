"""What senders of traces may ask, and what they are answered, over real sockets."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.core.trace import Frame
from quarterdeck.telemetry.trace import TraceBack, TraceLost
from tests.contracts.fabric_server import harbour
from tests.http.http_host import HttpHost, answering
from tests.http.trace_sender import NOW_US, Sender


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        yield host


async def events(host: HttpHost, run: str) -> list[dict[str, Any]]:
    """What a watcher of a run is told up to now."""
    answer = await host.ask(f"/v1/runs/{run}/events?follow=false")
    return [json.loads(line[6:]) for line in answer.body.splitlines() if line[:6] == b"data: "]


async def ended(host: HttpHost, run: str) -> dict[str, Any]:
    """The run once it has ended."""
    found: dict[str, Any] = (await host.ask(f"/v1/runs/{run}?wait=20s")).json
    assert found["state"] == "ended"
    return found


@pytest.mark.parametrize("keep", [False, True])
async def test_a_trace_begins_is_taken_and_ends(host: HttpHost, keep: bool) -> None:
    sender = Sender(host.port, keep=keep, host="web-1", command=["echo", "hi"])
    begun = await sender.begin()
    assert (begun.status, begun.json["acked"]) == (201, {"stdout": 0, "stderr": 0})
    where, _, token = begun.json["url"].partition("#access_token=")
    assert where.endswith("/trace/deploy")
    assert (await host.ask("/v1/traces?name=deploy", token=token)).status == 200
    assert (await host.ask("/v1/traces?name=deploy&limit=1")).json["items"][0]["url"] == where
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


@pytest.mark.parametrize("keep", [False, True])
async def test_a_trace_is_a_run_with_output_events_and_an_end(host: HttpHost, keep: bool) -> None:
    sender = Sender(host.port, keep=keep, command=["make", "all"])
    await sender.begin()
    await sender.say(b"one\n")
    await sender.say(b"bad\n", "stderr")
    await sender.say(b"two\n")
    run = (await host.ask(f"/v1/runs/{sender.trace}")).json
    assert (run["state"], run["origin"], run["title"]) == ("running", "trace", "make all")
    assert (await host.ask(f"/v1/runs/{sender.trace}/output")).body == b"one\ntwo\n"
    present = await events(host, sender.trace)
    assert [e["type"] for e in present] == ["run", *["output"] * 3, "task", "present"]
    await sender.end(code=2, stdout=8, stderr=4)
    await ended(host, sender.trace)
    run = (await host.ask(f"/v1/runs/{sender.trace}")).json
    assert (run["state"], run["outcome"]) == ("ended", "failed")
    (task,) = run["tasks"]
    assert (task["node"], task["exit_code"]) == ("web-1", 2)
    assert task["attempts"][0]["stdout"]["bytes"] == 8
    told = await events(host, sender.trace)
    said = [(e["stream"], e["data"]) for e in told if e["type"] == "output"]
    assert said == [("stdout", "one\n"), ("stderr", "bad\n"), ("stdout", "two\n")]
    assert told[-1]["type"] == "ended"
    lines = await host.ask(f"/v1/runs/{sender.trace}/output?lines=1")
    assert lines.body == b"two\n"
    (listed,) = (await host.ask("/v1/runs?origin=trace")).json["items"]
    assert listed["id"] == sender.trace


async def test_nobody_here_can_act_on_the_command_of_a_trace(host: HttpHost) -> None:
    sender = Sender(host.port)
    await sender.begin()
    for path, body in (
        ("cancel", None),
        ("cancel?node=web-1", None),
        ("signal", {"signal": 15}),
        ("retry", {}),
    ):
        refused = await host.ask(f"/v1/runs/{sender.trace}/{path}", method="POST", body=body)
        assert (refused.status, refused.json["code"]) == (409, "trace"), path


async def test_who_is_not_heard_of_is_lost_and_comes_back(host: HttpHost) -> None:
    sender = Sender(host.port, keep=True)
    await sender.begin()
    await sender.say(b"before ")
    began = host.server.clock.monotonic()
    await host.ears.until(TraceLost)
    assert host.server.clock.monotonic() - began < 10
    run = (await host.ask(f"/v1/runs/{sender.trace}")).json
    assert (run["state"], run["outcome"]) == ("ended", "lost")
    assert (await sender.say(b"after")).json["state"] == "open"
    await host.ears.until(TraceBack)
    run = (await host.ask(f"/v1/runs/{sender.trace}")).json
    assert (run["state"], run["outcome"], run["ended_at"]) == ("running", None, None)
    await sender.end(signal=9, stdout=12)
    run = await ended(host, sender.trace)
    assert run["tasks"][0]["exit_code"] == 137
    assert (await host.ask(f"/v1/runs/{sender.trace}/output")).body == b"before after"


def frame(kind: int = 1, stream: int = 0, offset: int = 0, length: int = 0) -> bytes:
    return struct.pack("!BBQQI", kind, stream, offset, NOW_US, length)


BROKEN = (
    b"x",
    frame(kind=3),
    frame(stream=2),
    frame(length=5) + b"four",
    frame(length=(1 << 20) + 1) + bytes((1 << 20) + 1),
    frame(offset=(1 << 64) - 1, length=1) + b"x",
    frame(kind=2, length=3) + b"abc",
    frame(kind=2, length=8) + bytes(8),
    frame(length=2) + b"ok" + b"then garbage that is longer than a header",
)


async def test_a_body_that_is_none_of_frames_changes_nothing(host: HttpHost) -> None:
    sender = Sender(host.port, keep=True)
    await sender.begin()
    for body in BROKEN:
        refused = await sender.segments(body)
        assert (refused.status, refused.json["code"]) == (400, "bad_frames"), body[:40]
    assert (await sender.say(b"fine")).json["acked"] == {"stdout": 4, "stderr": 0}


async def test_what_a_sender_may_not_do_is_refused_in_sentences(host: HttpHost) -> None:
    sender = Sender(host.port, keep=True)
    await sender.begin()
    await sender.say(b"abc")
    late = await sender.frames([Frame("stdout", 9, NOW_US, b"x")])
    assert (late.status, late.json["code"]) == (409, "gap")
    assert late.json["acked"] == {"stdout": 3, "stderr": 0}
    large = await sender.segments(bytes((4 << 20) + 1))
    assert large.status == 413
    other = Sender(host.port)
    other.trace = sender.trace
    assert (await other.segments(b"")).status == 403
    sender.trace = "0" * 16
    assert (await sender.segments(b"")).json["code"] == "trace_not_found"
    for wrong in ({"name": "a/b"}, {"id": "a\nb"}, {"key": "short"}, {"nosuch": 1}):
        refused = await Sender(host.port, **{"name": "x", **wrong}).begin()  # type: ignore[arg-type]
        assert refused.status == 400, wrong
        assert refused.json["detail"].endswith("."), refused.json


async def test_drops_are_counted_once_and_told(host: HttpHost) -> None:
    sender = Sender(host.port, keep=True)
    await sender.begin()
    await sender.say(b"abc")
    drop = Frame("stdout", 3, NOW_US, b"", 1000)
    for _ in range(2):
        assert (await sender.frames([drop])).json["acked"]["stdout"] == 3
    await sender.say(b"def")
    found = (await host.ask(f"/v1/traces/{sender.trace}")).json
    assert (found["dropped"], found["bytes"]["stdout"]) == (1000, 6)
    counted = (await host.ask("/metrics")).body.decode()
    assert 'qd_traces_begun_total{kind="kept"} 1.0' in counted
    assert 'qd_trace_bytes_total{kind="kept"} 6.0' in counted
    assert "qd_trace_dropped_bytes_total 1000.0" in counted
