"""Foreign senders: what they say becomes traces of a real server on a real fabric."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator

import pytest

from quarterdeck.control.foreign import book, connections, gate
from quarterdeck.errors import Conflict
from quarterdeck.telemetry.trace import TraceBegan, TraceTaken
from tests.contracts.fabric_server import Harbour
from tests.integration.foreign_host import Listener, hearing

RTAIL = b'{"id": "app", "timestamp": 1700000000000, "content": %s}'


@pytest.fixture
async def heard(place: Harbour) -> AsyncIterator[Listener]:
    async with hearing(place) as listener:
        yield listener


async def test_datagrams_become_traces(heard: Listener) -> None:
    heard.datagram("rtail", RTAIL % b'"hello"')
    heard.datagram("rtail", RTAIL % b'{"a": 1}')
    heard.datagram("rtail", b"junk")
    heard.datagram("rtail", RTAIL % b'"there"')
    await heard.says("app", b'hello\n{"a":1}\nthere\n', sender="127.0.0.1")
    heard.datagram("syslog", b"<11>1 2023-11-14T22:13:20Z db1 postgres 7 - - no room")
    heard.datagram("syslog", b"<13>Nov 14 22:13:20 db1 postgres[7]: room again")
    await heard.says("postgres", b"no room\n", sender="db1", stream="stderr")
    await heard.says("postgres", b"room again\n", sender="db1")
    assert (heard.view("rtail").messages, heard.view("rtail").bad) == (3, 1)
    assert "127.0.0.1" in heard.view("rtail").problem


async def test_log_io_torn_anywhere_with_a_bad_message_between_is_heard_and_answered(
    heard: Listener,
) -> None:
    reader, writer = await heard.connect("logio")
    said = b"+node|web1|access\r\n+bind|node|web1\r\n+log|access|web1|info|a|b\r\nbad\r\n"
    for at in range(len(said)):
        writer.write(said[at : at + 1])
        await writer.drain()
    assert await reader.readexactly(4) == b"ping"
    await heard.says("access", b"a|b\n", sender="web1")
    assert (heard.view("logio").messages, heard.view("logio").bad) == (3, 1)
    assert heard.view("logio").connections == 1
    assert await reader.readexactly(4) == b"ping"  # again and again


async def test_two_versions_of_log_io_and_syslog_over_tcp(heard: Listener) -> None:
    _, four = await heard.connect("logio4")
    four.write(b"+input|app|web1\0+msg|app|web1|one\ntwo\n\0")
    await heard.says("app", b"one\ntwo\n", sender="web1")
    _, log = await heard.connect("syslog")
    log.write(b"28 <13>Nov 14 22:13:20 h tag: 1<13>Nov 14 22:13:20 h tag: 2\n")
    await heard.says("tag", b"1\n2\n", sender="h")
    four.write(b"-input|app|web1\0")
    over = await heard.ended("app")
    assert over.end is not None and (over.end.code, over.lost) == (None, False)


async def test_a_sender_that_comes_back_at_once_goes_on_and_later_begins_anew(
    heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = await heard.connect("logio")
    first.write(b"+log|app|web1|info|1\r\n")
    await heard.says("app", b"1\n")
    first.close()
    _, second = await heard.connect("logio")
    second.write(b"+log|app|web1|info|2\r\n")
    await heard.says("app", b"1\n2\n")
    monkeypatch.setattr(book, "LINGER_S", 0.0)
    second.close()
    over = await heard.ended("app")
    assert over.end is not None and "connection" in over.end.message
    _, third = await heard.connect("logio")
    third.write(b"+log|app|web1|info|3\r\n")
    await heard.ears.until(TraceBegan, 2)
    await heard.says("app", b"3\n")
    assert [one.state.value for one in await heard.traces("app")] == ["open", "ended"]


async def test_one_name_of_two_protocols_and_names_that_become_the_same_stay_apart(
    heard: Listener,
) -> None:
    _, writer = await heard.connect("logio")
    writer.write(b"+log|my app|web1|info|1\r\n+log|my/app|web1|info|2\r\n")
    await heard.ears.until(TraceBegan, 2)
    said = [(await heard.said(one))["stdout"] for one in await heard.traces("my-app")]
    titles = [one.start.title for one in await heard.traces("my-app")]
    assert len(titles) == 2 and any("my/app" in title for title in titles), said


async def test_a_flood_is_slowed_and_others_are_heard_at_once(
    heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BURST", 1 << 20)
    monkeypatch.setattr(gate, "RATE", 1 << 18)  # less than any machine can read
    _, flood = await heard.connect("logio")
    flood.write(b"+log|flood|evil|info|x\r\n" * 200_000)
    _, endless = await heard.connect("logio4")
    endless.write(b"x" * (4 << 20))
    chance = random.Random(7)
    for protocol in ("rtail", "syslog"):
        for _ in range(50):
            heard.datagram(protocol, chance.randbytes(1000))
    for protocol in ("logio", "logio4", "syslog"):
        _, junk = await heard.connect(protocol)
        junk.write(chance.randbytes(100_000))
    _, calm = await heard.connect("logio")
    async with asyncio.timeout(10):
        for number in range(5):
            calm.write(b"+log|calm|web1|info|%d\r\n" % number)
            await heard.says("calm", b"".join(b"%d\n" % n for n in range(number + 1)))
        heard.datagram("rtail", RTAIL % b'"still"')
        await heard.says("app", b"still\n")

    async def slowed() -> int | None:
        return heard.view("logio").limited or None

    await heard.once(TraceTaken, slowed)
    logio = heard.view("logio")
    assert logio.messages < 200_000 and logio.limited > 0 and logio.dropped == 0
    assert heard.view("logio4").bad >= 1 and heard.view("rtail").bad == 50
    assert heard.server.foreign.waiting_bytes < 1 << 20
    flood.transport.abort()  # what it did not get rid of would be waited for


async def test_connections_that_say_nothing_make_room(
    heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 8)
    _, kept = await heard.connect("logio")
    kept.write(b"+node|web1\r\n+log|app|web1|info|1\r\n")
    await heard.says("app", b"1\n")
    silent = [await heard.connect("logio") for _ in range(30)]
    _, late = await heard.connect("logio")
    late.write(b"+log|late|web2|info|1\r\n")
    await heard.says("late", b"1\n")
    kept.write(b"+log|app|web1|info|2\r\n")
    await heard.says("app", b"1\n2\n")
    assert heard.view("logio").connections <= 8
    assert await silent[0][0].read() == b""


async def test_lines_wait_while_the_fabric_is_away(place: Harbour) -> None:
    async with hearing(place) as heard:
        _, writer = await heard.connect("logio")
        writer.write(b"+log|app|web1|info|1\r\n")
        await heard.says("app", b"1\n")
        place.kill()
        for number in range(2, 5):
            writer.write(b"+log|app|web1|info|%d\r\n" % number)
        await writer.drain()
        await place.up()
        await heard.says("app", b"2\n3\n4\n")  # a restart takes what an ephemeral one had said
        assert len(await heard.traces("app")) == 1


async def test_when_the_server_stops_what_was_said_is_delivered_and_the_traces_end(
    place: Harbour,
) -> None:
    async with hearing(place) as heard:
        heard.datagram("rtail", RTAIL % b'"last words"')
        await heard.says("app", b"last words\n")
        ports = {one.protocol: one.listen for one in heard.server.foreign.views()}
    async with hearing(place) as heard:
        (over,) = await heard.traces("app")
        assert over.end is not None and "stopped" in over.end.message and not over.lost
        assert {one.protocol: one.listen for one in heard.server.foreign.views()} == ports
        kept = json.loads((place.root / "server" / "ingest.json").read_bytes())
        assert kept == ports


async def test_an_address_in_use_is_told_with_the_setting_to_change(place: Harbour) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Conflict, match=f"`ingest`: {where} is in use.*give logio another"):
            async with hearing(place, f"logio={where}"):
                raise AssertionError
