"""The fabric inside a WebSocket: the whole protocol, odd frames, proxies, whom to trust."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Limits, Message, Stored
from quarterdeck.fabric.embedded import EmbeddedFabric, WebSocket
from quarterdeck.fabric.nats.websocket import BadFrame, Frames, frame, masked
from quarterdeck.fabric.proxy import Proxy, parse, proxy_for
from tests.contracts.connect_proxy import ConnectProxy
from tests.contracts.fabric_place import QUICK, Connections, Inbox, opened
from tests.contracts.fabric_proxy import Proxy as Cable
from tests.contracts.fabric_server import Harbour


class WebHarbour(Harbour):
    """A harbour whose nodes come by WebSocket."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.server = EmbeddedFabric(root / "fabric", self.authority, websocket=WebSocket())
        self.proxy: Proxy | None = None

    def make(self, role: str, name: str, **more: Any) -> Any:
        if role == "node":
            more.setdefault("url", f"{self.server.websocket_url}/fabric")
            more["proxies"] = lambda _url: self.proxy
        return super().make(role, name, **more)


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[WebHarbour]:
    place = WebHarbour(tmp_path)
    async with opened(place):
        yield place


async def test_a_node_works_by_websocket_as_by_tcp(web: WebHarbour) -> None:
    server, node = await web.fleet()
    assert await node.store("ev.n1.attempt", b"fact", message_id="1") == Stored(1)

    def answer(message: Message) -> None:
        web.spawn(node.publish(message.reply, message.data[::-1]), "answer")

    await node.subscribe("cmd.n1.>", answer)
    question = random.Random(1).randbytes(3 << 20)
    assert await server.request("cmd.n1.orders", question, timeout_s=10) == question[::-1]
    beats = Inbox()
    await server.subscribe("hb.*", beats)
    await node.publish("hb.n1", b"beat")
    assert (await beats.count(1))[0].data == b"beat"


async def test_many_chunks_of_every_length_arrive_in_order(web: WebHarbour) -> None:
    server, node = await web.fleet()
    inbox = Inbox()
    await server.subscribe("out.n1.>", inbox)
    chance = random.Random(2)
    sizes = [
        0,
        1,
        125,
        126,
        127,
        65535,
        65536,
        1 << 20,
        *(chance.randrange(9000) for _ in "x" * 300),
    ]
    sent = [chance.randbytes(size) for size in sizes]
    answers = [node.store("out.n1.r.a", data) for data in sent]
    await asyncio.gather(*answers)
    assert [message.data for message in await inbox.count(len(sent))] == sent


async def test_a_link_by_websocket_mends_itself_and_sends_what_was_not_acknowledged(
    web: WebHarbour,
) -> None:
    await web.fleet()
    node = await web.join("node", "n2")
    connected = Connections(node)
    web.kill()
    waiting = [node.store("ev.n2.attempt", b"%d" % k, message_id=f"k{k}") for k in range(20)]
    await web.up()
    await connected.reach(1)
    assert all(isinstance(answer, Stored) for answer in await asyncio.gather(*waiting))


async def test_a_black_hole_under_a_websocket_is_noticed(web: WebHarbour) -> None:
    await web.fleet()
    port = int(web.server.websocket_url.rpartition(":")[2])
    async with Cable(port) as cable:
        node = await web.join("node", "n2", url=cable.url.replace("nats:", "ws:") + "/fabric")
        connected = Connections(node)
        cable.swallow()
        await connected.reach(1)
        assert await node.store("ev.n2.attempt", b"after", message_id="1") == Stored(1)


def told_of_the_way(web: WebHarbour) -> list[str]:
    return [text for text in web.errors if "using ws://" in text]


async def test_websockets_are_dialled_where_tcp_does_not_get_through_and_that_is_said_once(
    web: WebHarbour,
) -> None:
    around = f"{web.server.websocket_url}/fabric"
    node = await web.join("node", "n1", url=["nats://127.0.0.1:1", around])
    connected = Connections(node)
    web.kill()
    await web.up()
    await connected.reach(1)
    told = told_of_the_way(web)
    assert len(told) == 1 and "nats://127.0.0.1:1 can't be reached" in told[0], web.errors


async def test_a_fabric_that_answers_by_tcp_no_longer_is_reached_by_websocket(
    web: WebHarbour,
) -> None:
    around = f"{web.server.websocket_url}/fabric"
    patience = msgspec.structs.replace(QUICK, connect_timeout_s=2.0)
    async with Cable(web.port) as cable:
        node = await web.join("node", "n1", url=[around, cable.url], options=patience)
        assert cable.accepted == 1 and not told_of_the_way(web)
        connected = Connections(node)
        cable.stop()
        cable.say(b"-ERR 'Server Shutdown'\r\n")
        await connected.reach(1)
        assert len(told_of_the_way(web)) == 1
        cable.go()


@pytest.mark.parametrize("login", ["", "user:p@ss word"])
async def test_a_proxy_leads_to_the_websocket(web: WebHarbour, login: str) -> None:
    server = await web.join("server", "s1")
    await server.ensure_streams(Limits())
    async with ConnectProxy(login) as proxy:
        web.proxy = Proxy("127.0.0.1", proxy.port, login)
        node = await web.join("node", "n1")
        assert await node.store("ev.n1.attempt", b"fact", message_id="1") == Stored(1)
        assert proxy.tunnels == [web.server.websocket_url.removeprefix("ws://")]


async def test_a_proxy_that_wants_a_password_is_told_in_a_sentence_without_it(
    web: WebHarbour,
) -> None:
    async with ConnectProxy("user:right") as proxy:
        web.proxy = Proxy("127.0.0.1", proxy.port, "user:wrong")
        with pytest.raises(Unavailable, match="wants a user and a password") as told:
            await web.join("node", "n1")
        assert "wrong" not in str(told.value) + repr(web.proxy)
        assert "Traceback" not in str(told.value)


async def test_a_proxy_that_is_away_is_named(web: WebHarbour) -> None:
    web.proxy = Proxy("127.0.0.1", 1)
    with pytest.raises(Unavailable, match=r"The proxy 127\.0\.0\.1:1 can't be reached"):
        await web.join("node", "n1")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: nonsense\r\n\r\n", "does not answer as"),
        (b"SSH-2.0-x\r\n\r\n", "answered no HTTP"),
        (b"", "hung up"),
        (b"x" * (1 << 20), "does not answer as"),
    ],
)
async def test_what_is_no_websocket_is_said_to_be_none(
    web: WebHarbour, said: bytes, why: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=why):
            await web.join("node", "n1", url=f"ws://127.0.0.1:{port}/fabric")


def server_frame(opcode: int, data: bytes, *, final: bool = True) -> bytes:
    whole = frame(opcode, data, b"\0\0\0\0")
    size = len(whole) - len(data)
    head = bytearray(whole[: size - 4])
    head[0] = (0x80 if final else 0) | opcode
    head[1] &= 0x7F
    return bytes(head) + data


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 1 << 20])
def test_frames_may_come_in_any_pieces(step: int) -> None:
    chance = random.Random(step)
    said: list[tuple[int, bytes]] = []
    frames = Frames(lambda opcode, data: said.append((opcode, data)))
    carried, stream = b"", b""
    for size in (0, 1, 125, 126, 65535, 65536, 70000):
        data = chance.randbytes(size)
        half = size // 2
        stream += server_frame(2, data[:half], final=False) + server_frame(9, b"are you there")
        stream += server_frame(0, data[half:])
        carried += data
    stream += server_frame(8, b"\x03\xe8bye") + b"\x02whatever follows"
    got = b"".join(frames.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    assert got == carried
    assert said == [(10, b"are you there")] * 7 + [(8, b"\x03\xe8")]
    assert frames.closed


@pytest.mark.parametrize(
    "bad", [b"\xc2\x00", b"\x82\x80", b"\x83\x00", b"\x89\x7e\x00\xff", b"\x8b\x00"]
)
def test_what_no_server_sends_ends_the_link(bad: bytes) -> None:
    with pytest.raises(BadFrame):
        Frames(lambda _opcode, _data: None).feed(bad)


def test_masking_is_the_exclusive_or_of_each_byte() -> None:
    chance = random.Random(3)
    for size in (0, 1, 2, 3, 4, 5, 1000):
        data, key = chance.randbytes(size), chance.randbytes(4)
        assert masked(data, key) == bytes(b ^ key[k % 4] for k, b in enumerate(data))


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("https://qd.example.org", "", True),
        ("wss://qd.example.org/fabric", "", True),
        ("http://qd.example.org", "", False),
        ("https://qd.example.org", "*", False),
        ("https://qd.example.org", "other.org, example.org", False),
        ("https://qd.example.org", ".example.org", False),
        ("https://qd.example.org", "*.example.org", False),
        ("https://notexample.org", "example.org", True),
        ("https://qd.example.org:7333", "qd.example.org:443", True),
        ("https://qd.example.org:7333", "qd.example.org:7333", False),
        ("https://10.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.1.2.3:443", False),
        ("https://11.1.2.3", "10.0.0.0/8,fd00::/8", True),
        ("https://[fd00::1]:7333", "fd00::/8", False),
        ("https://127.0.0.1:7333", "", False),
        ("https://localhost:7333", "", False),
        ("https://[::1]", "", False),
    ],
)
def test_who_is_reached_by_the_proxy(url: str, no_proxy: str, proxied: bool) -> None:
    given = {"https_proxy": "http://proxy.example.org:3128", "no_proxy": no_proxy}
    found = proxy_for(url, given)
    assert (found is not None) is proxied
    assert found is None or str(found) == "proxy.example.org:3128"


def test_a_proxy_that_cannot_be_used_is_refused_without_its_secret() -> None:
    assert str(parse("proxy:8080")) == "proxy:8080"
    assert parse("http://u:p%40ss@proxy:8080").headers["Proxy-Authorization"] == "Basic dTpwQHNz"
    for bad in ("socks5://u:geheim@proxy:1080", "http://u:geheim@:1", "http://u:geheim@h:99999"):
        with pytest.raises(Invalid, match="HTTPS_PROXY") as told:
            parse(bad)
        assert "geheim" not in str(told.value)
