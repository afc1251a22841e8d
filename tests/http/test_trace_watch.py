"""Watching a name of traces over real sockets: exact for who comes late, leaves or comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import simple_websocket

from quarterdeck.control.feed import PENDING_BYTES
from quarterdeck.control.trace.view import TraceOutput, TracePresent, TracesEnded, View
from quarterdeck.core.ids import run_id
from quarterdeck.core.states import Outcome
from quarterdeck.core.trace import End, Frame, Start, Trace, ended
from quarterdeck.core.trace_cursor import Cursor
from quarterdeck.core.traced import outcome
from quarterdeck.store import trace as trace_store
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import API, HttpHost, answering
from tests.http.trace_sender import NOW_US, Sender
from tests.http.trace_viewer import DEADLINE_S, data_of, output, viewing

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as place:
        yield place


@pytest.fixture
async def host(place: Harbour) -> AsyncIterator[HttpHost]:
    async with answering(place.root, place.server.url) as host:
        yield host


async def begun(host: HttpHost, id: str = "web-1", **more: Any) -> Sender:
    sender = Sender(host.port, id=id, **more)
    assert (await sender.begin()).status == 201
    return sender


@pytest.mark.parametrize("keep", [False, True])
async def test_who_comes_late_is_told_the_past_and_then_what_is_live(
    host: HttpHost, keep: bool
) -> None:
    first, second = await begun(host, "web-1", keep=keep), await begun(host, "b.>*", keep=keep)
    await first.say(b"one\n")
    await second.say("héé".encode()[:2], "stderr")
    async with viewing(host.port, "deploy") as viewer:
        await viewer.until("present")
        assert [e["node"] for e in viewer.told if e["type"] == "run"] == ["web-1", "b.>*"]
        assert output(viewer.told, "web-1") == b"one\n"
        await second.say("héé".encode()[2:], "stderr")
        await first.say(b"\x00\xff two\n")
        assert (await viewer.until("output", node="web-1"))["data_b64"]
        third = await begun(host, "late", keep=keep)
        assert (await viewer.until("run"))["node"] == "late"
        await third.end(signal=9)
        await first.end(code=0)
        await second.end(code=3)
        told = await viewer.rest()
    ends = {
        e["node"]: (e["outcome"], e["exit_code"], e["signal"]) for e in told if e["type"] == "task"
    }
    assert ends == {
        "web-1": ("succeeded", 0, None),
        "b.>*": ("failed", 3, None),
        "late": ("failed", 137, 9),
    }
    assert output(told, "web-1") == b"one\n\x00\xff two\n"
    assert output(told, "b.>*", "stderr") == "héé".encode()
    assert told[-1] == {
        "type": "ended",
        "outcome": "failed",
        "exit_code": 137,
        "counts": {"succeeded": 1, "failed": 2},
    }


async def test_a_name_that_nobody_uses_is_waited_for(host: HttpHost) -> None:
    async with viewing(host.port, "deploy") as viewer:
        assert (await viewer.next())["type"] == "present"
        await begun(host, "other", name="elsewhere")
        await (await begun(host)).say(b"hello")
        assert (await viewer.next())["type"] == "run"
        assert (await viewer.next())["data"] == "hello"


async def test_a_connection_that_breaks_anywhere_goes_on_exactly_there(host: HttpHost) -> None:
    senders = [await begun(host, f"n{number}") for number in range(3)]
    for turn in range(4):
        for sender in senders:
            await sender.say(f"{sender.trace} {turn}\n".encode())
            await sender.say(f"e{turn}".encode(), "stderr")
    await senders[0].end(code=1)
    told: list[dict[str, Any]] = []
    after = ""
    for cut in range(1, 60):  # each connection is cut after a few events
        async with viewing(host.port, "deploy", "follow=false", after=after) as viewer:
            try:
                for _ in range(1 + cut % 3):
                    told.append(await viewer.next())
                    if told[-1]["type"] == "present":
                        break
            finally:
                after = viewer.last_id or after
        if told[-1]["type"] == "present":
            break
    assert told[-1]["type"] == "present"
    for sender in senders:
        node = f"n{senders.index(sender)}"
        assert output(told, node) == b"".join(f"{sender.trace} {n}\n".encode() for n in range(4))
        assert output(told, node, "stderr") == b"e0e1e2e3"
    assert [e["node"] for e in told if e["type"] == "run"] == ["n0", "n1", "n2"]
    assert [e["exit_code"] for e in told if e["type"] == "task"] == [1]


async def test_what_a_sender_dropped_or_left_out_is_told_as_missing(host: HttpHost) -> None:
    sender = await begun(host)
    await sender.say(b"before")
    await sender.frames(
        [Frame("stdout", 6, NOW_US, b"", 1000), Frame("stdout", 6, NOW_US, b"after")]
    )
    await sender.frames([Frame("stdout", 50, NOW_US, b"far")])
    async with viewing(host.port, "deploy", "follow=false") as viewer:
        told = await viewer.rest()
    shown = [e for e in told if e["type"] in ("output", "gap")]
    assert [e.get("data") or (e["reason"], e["from"], e["to"], e["bytes"]) for e in shown] == [
        "before",
        ("dropped", 6, 6, 1000),
        "after",
        ("window", 11, 50, 39),
        "far",
    ]


async def test_a_sender_that_is_lost_and_comes_back_is_told_so_before_what_it_says(
    host: HttpHost,
) -> None:
    sender = await begun(host)
    async with viewing(host.port, "deploy", "forever=true") as viewer:
        await viewer.until("present")
        for _ in range(5):  # the news and the output come by different ways
            await sender.say(b"here")
            await viewer.until("output", data="here")
            await host.server.traces.lose(sender.trace)
            lost = await viewer.next()
            assert (lost["state"], lost["outcome"], lost["exit_code"]) == ("ended", "lost", None)
            await sender.say(b"here again")
            back = await viewer.next()
            assert (back["type"], back.get("state")) == ("task", "running")
            assert (await viewer.next())["data"] == "here again"
        await sender.end(code=0)
        assert (await viewer.until("task"))["outcome"] == "succeeded"


async def test_a_restart_of_the_fabric_is_told_to_who_watches_and_to_who_comes_late(
    place: Harbour, host: HttpHost
) -> None:
    sender = await begun(host)
    await sender.say(b"forgotten ")
    host.server.traces.heard()  # the fabric goes before the beat that would write it down
    async with viewing(host.port, "deploy", "forever=true") as viewer:
        await viewer.until("output")
        await place.down()
        await place.up()
        gap = await viewer.until("gap")
        assert (gap["reason"], gap["bytes"]) == ("fabric", 0)
        assert (await sender.say(b"kept")).status == 200
        await viewer.until("output", data="kept")
        async with viewing(host.port, "deploy") as late:
            gap = await late.until("gap")
            assert (gap["reason"], gap["from"], gap["to"]) == ("fabric", 0, 10)
            await late.until("output", data="kept", offset=10)


async def test_a_websocket_tells_the_same_and_resumes_from_its_cursor(host: HttpHost) -> None:
    sender = await begun(host)
    await sender.say(b"one")
    url = f"ws://127.0.0.1:{host.port}/v1/trace/deploy/stream?access_token={API}"
    socket = await simple_websocket.AioClient.connect(url)
    told = [json.loads(await socket.receive(DEADLINE_S)) for _ in range(3)]
    assert [event["type"] for event in told] == ["run", "output", "present"]
    await socket.close()
    await sender.say(b"two")
    await sender.end(code=7)
    again = await simple_websocket.AioClient.connect(f"{url}&after={told[-1]['cursor']}")
    rest: list[dict[str, Any]] = []
    while not rest or rest[-1]["type"] != "ended":
        rest.append(json.loads(await again.receive(DEADLINE_S)))
    with pytest.raises(simple_websocket.ConnectionClosed):
        await again.receive(DEADLINE_S)
    assert [e.get("data") or e["type"] for e in rest] == ["two", "task", "present", "ended"]
    assert rest[-1]["exit_code"] == 7


async def test_a_websocket_that_is_turned_away_is_told_why(host: HttpHost) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    bearer = {"Authorization": f"Bearer {API}"}
    cases: list[tuple[str, dict[str, str], int, str]] = [
        ("deploy/stream", {}, 401, "no_token"),
        ("deploy/stream?access_token=qd_api_x", {}, 401, "bad_token"),
        ("a%20b/stream", bearer, 400, "trace_name"),
        ("deploy/stream?after=x", bearer, 400, "cursor"),
        ("deploy/stream", {**bearer, "Origin": "http://x.org"}, 403, "origin"),
    ]
    for path, headers, status, code in cases:
        answer = await host.ask(f"/v1/trace/{path}", token="", more={**upgrade, **headers})
        assert (answer.status, answer.json["code"]) == (status, code), path


async def test_a_watcher_that_stops_reading_costs_its_inbox_and_slows_nobody(
    host: HttpHost,
) -> None:
    sender = await begun(host)
    piece = bytes(range(256)) * 2048
    seen = host.server.trace_watching.watch("default", "deploy", Cursor(), forever=True)
    async for one in seen:
        if isinstance(one, TracePresent):
            break
    total = 0
    async with viewing(host.port, "deploy", "forever=true") as quick:
        await quick.until("present")
        for _ in range(48):  # more than an inbox holds
            await sender.say(piece)
            total += len(piece)
        end = 0
        while end < total:
            event = await quick.until("output")
            assert event["offset"] == end
            end += len(data_of(event))
    # two inboxes at most: the quick one may not have handed back its last
    assert host.server.trace_watching.crowd.waiting_bytes <= 2 * PENDING_BYTES
    read = bytearray()
    async for one in seen:  # it wakes up, and misses nothing
        if isinstance(one, TraceOutput):
            read += one.chunk.data
            if len(read) == total:
                break
    assert read == piece * 48
    await seen.aclose()
    assert host.server.trace_watching.crowd.waiting_bytes == 0


async def test_the_end_of_what_is_delivered_late_is_told(host: HttpHost) -> None:
    """Its command ended before the window begins."""
    at = time.time()
    sender = await begun(host, started_at=at - 9000)
    await sender.say(b"late")
    async with viewing(host.port, "deploy") as viewer:
        await viewer.until("present")
        await sender.end(code=3, ended_at=at - 7200)
        assert (await viewer.rest())[-1]["exit_code"] == 3
    async with viewing(host.port, "deploy") as viewer:
        told = await viewer.rest()
    assert output(told, "web-1") == b"late" and told[-1]["exit_code"] == 3


async def test_a_trace_of_a_server_whose_clock_is_behind_is_told(
    host: HttpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with viewing(host.port, "deploy", "forever=true") as viewer:
        await viewer.until("present")
        await (await begun(host, "a")).end(code=0)
        await viewer.until("task", node="a")
        behind = int(time.time() * 1000) - 5000
        with monkeypatch.context() as changed:
            changed.setattr(host.server.traces, "_new_id", lambda: run_id(behind, b"rand"))
            late = await begun(host, "b")
        await late.say(b"hello")
        await late.end(code=0)
        await viewer.until("task", node="b")
        after = viewer.last_id
    assert output(viewer.told, "b") == b"hello"
    async with viewing(host.port, "deploy", "follow=false", after=after) as viewer:
        assert [event["type"] for event in await viewer.rest()] == ["present"]


@pytest.mark.parametrize("forever", ["", "forever=true"])
async def test_the_end_of_a_trace_that_was_forgotten_meanwhile_is_told_as_unknown(
    host: HttpHost, forever: str
) -> None:
    sender = await begun(host)
    async with viewing(host.port, "deploy", "forever=true") as viewer:
        await viewer.until("present")
        after = viewer.last_id
    await sender.end(code=0)
    await host.server.database.write(lambda tx: trace_store.remove(tx, [sender.trace]))
    async with viewing(host.port, "deploy", forever, after=after) as viewer:
        task = await viewer.until("task")
        assert (task["run"], task["outcome"], task["exit_code"]) == (sender.trace, "lost", None)
        if not forever:
            assert (await viewer.rest())[-1]["counts"] == {"lost": 1}
        else:
            await viewer.until("present")
            assert ":" not in viewer.last_id  # nothing goes on


async def test_who_watches_for_long_keeps_nothing_of_what_is_over() -> None:
    cursor = Cursor()
    view = View("default", "deploy", "", cursor)
    trace = Trace(
        id=run_id(0, b"rand"),
        namespace="default",
        name="deploy",
        sender="web-1",
        key="0" * 32,
        by="t",
        kept=False,
        start=Start(),
        created_at=MOMENT,
        heard_at=MOMENT,
    )
    for minute in range(500):
        now = MOMENT + timedelta(minutes=minute)
        one = msgspec.structs.replace(trace, id=run_id(minute * 60_000, b"rand"))
        over = ended(msgspec.structs.replace(one, created_at=now), End(code=minute % 2), now)
        view.update([over], now - timedelta(hours=1), float(minute))
        for entry in view.entries():
            entry.place.told, entry.place.final = over.told, True
            entry.outcome = outcome(over)
        view.settle()
        cursor.text()
    assert not view.entries() and len(view._told) <= 61 and len(cursor.places) < 20
    assert view.ended() == TracesEnded({Outcome.SUCCEEDED: 250, Outcome.FAILED: 250}, 1)


async def test_nothing_waits_for_a_viewer_that_has_left(host: HttpHost) -> None:
    for _ in range(3):
        async with viewing(host.port, "deploy", "forever=true") as viewer:
            await viewer.until("present")
    async with asyncio.timeout(DEADLINE_S):
        while any("deploy" in name for name in host.server.services.doing()):
            await host.ask("/v1/traces")


async def test_two_hundred_traces_and_fifty_who_watch_one_of_them(host: HttpHost) -> None:
    traces = [
        await begun(host, f"n{number}", name="watched" if number == 0 else f"t{number}")
        for number in range(200)
    ]

    async def watched() -> bytes:
        async with viewing(host.port, "watched") as viewer:
            return output(await viewer.rest(), "n0")

    async with asyncio.TaskGroup() as group:
        viewers = [group.create_task(watched()) for _ in range(50)]
        for turn in range(2):
            for sender in traces[:: 1 if turn else 10]:
                await sender.say(f"{sender.trace} {turn}\n".encode())
        await traces[0].end(code=0)
    expected = b"".join(f"{traces[0].trace} {turn}\n".encode() for turn in range(2))
    assert {viewer.result() for viewer in viewers} == {expected}
