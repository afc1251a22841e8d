"""The fabric with much under way: restarts of the server, slow readers, slow handlers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from quarterdeck.errors import Unavailable
from quarterdeck.fabric.base import Fabric, Message, Stored
from tests.contracts.fabric_place import DEADLINE_S, Connections, Inbox, replayed
from tests.contracts.fabric_proxy import Proxy
from tests.contracts.fabric_server import Harbour, harbour

MANY = 1500


class Traffic:
    """Everything at once between a server and node n1."""

    def __init__(self, nats: Harbour, server: Fabric, node: Fabric) -> None:
        self._spawn = nats.spawn
        self._server = server
        self._node = node
        self._found: dict[bytes, None] = {}
        self._all_found = asyncio.Event()

    def answer(self, message: Message) -> None:
        self._spawn(self._reply(message), "reply")

    async def _reply(self, message: Message) -> None:
        try:
            await self._node.publish(message.reply, message.data)
        except Unavailable:
            return  # the asker asks again

    async def ingest(self) -> None:
        async for batch in self._server.consume("EV", "ingest", batch=50):
            for delivery in batch:
                self._found[delivery.data] = None
                delivery.ack()
            if len(self._found) >= MANY:
                self._all_found.set()

    async def all_found(self) -> set[bytes]:
        await asyncio.wait_for(self._all_found.wait(), DEADLINE_S)
        return set(self._found)

    async def ask(self) -> None:
        for number in range(30):
            text, answer = str(number).encode(), b""
            while not answer:
                try:
                    answer = await self._server.request("cmd.n1.x", text, timeout_s=0.3)
                except Unavailable:
                    await asyncio.sleep(0)
            assert answer == text

    async def read(self) -> None:
        seen = 0
        while seen < MANY:
            try:
                kept = [one.data async for one in self._server.replay("OUT", "out.n1.r.>")]
            except Unavailable:
                await asyncio.sleep(0)
                continue
            assert len(kept) == len(set(kept))
            assert len(kept) >= seen  # what was answered once is never gone
            seen = len(kept)


async def test_everything_goes_on_over_restarts_of_the_server(nats: Harbour) -> None:
    server, node = await nats.fleet(ack_wait_s=0.5)
    traffic, live = Traffic(nats, server, node), Inbox()
    await server.subscribe("out.*.r.*", live)
    await node.subscribe("cmd.n1.>", traffic.answer)
    ingesting = nats.spawn(traffic.ingest(), "ingest")
    work = [nats.spawn(traffic.ask(), "ask"), nats.spawn(traffic.read(), "read")]
    stores = []
    for turn in range(3):
        third = MANY // 3
        stores += [
            node.store(f"{kind}.n1.r.1", f"{kind}{number}".encode(), message_id=f"{kind}{number}")
            for number in range(turn * third, (turn + 1) * third)
            for kind in ("ev", "out")
        ]
        await asyncio.wait_for(asyncio.shield(stores[-third]), DEADLINE_S)
        back = Connections(node)
        nats.kill()
        await nats.up()
        await back.reach(1)
    results = await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
    assert all(isinstance(result, Stored) for result in results)
    await asyncio.wait_for(asyncio.gather(*work), DEADLINE_S)
    assert await traffic.all_found() == {f"ev{number}".encode() for number in range(MANY)}
    kept = [one.data for one in await replayed(server, "out.n1.r.>")]
    assert sorted(kept) == sorted(f"out{number}".encode() for number in range(MANY))
    before = len(live.messages)
    await node.store("out.n1.r.1", b"still live")
    await live.count(before + 1)
    await server.stop()
    await ingesting


async def test_a_reader_that_is_cut_for_slowness_comes_back_and_can_replay(
    tmp_path: Path,
) -> None:
    async with harbour(tmp_path, max_pending=9 << 20) as nats, Proxy(nats.port) as proxy:
        _, node = await nats.fleet()
        slow = await nats.join("server", "s2", url=proxy.url)
        back, inbox = Connections(slow), Inbox()
        await slow.subscribe("out.n1.r.1", inbox)
        proxy.stop(up=False)
        # The server gives up a reader with more than max_pending waiting, beyond the sockets.
        stores = [node.store("out.n1.r.1", str(n).encode() * 50_000) for n in range(200)]
        await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
        await nats.error("link to the fabric lost")
        proxy.go()
        await back.reach(1)
        await node.store("out.n1.r.1", b"after")
        async with asyncio.timeout(DEADLINE_S):
            while not inbox.messages or inbox.messages[-1].data != b"after":
                await inbox.count(len(inbox.messages) + 1)
        assert len(inbox.messages) < 201  # the gap that splicing fills from
        assert len(await replayed(slow, "out.n1.r.1")) == 201
        await slow.stop()


async def test_a_handler_that_is_slow_delays_and_costs_neither_message_nor_link(
    nats: Harbour,
) -> None:
    server, node = await nats.fleet()
    back = Connections(server)
    inbox = Inbox()

    def slow(message: Message) -> None:
        until = time.monotonic() + 0.01
        while time.monotonic() < until:
            pass
        inbox(message)

    await server.subscribe("hb.n1", slow)
    for number in range(200):  # two seconds of work, against 0.6 s of pings
        await node.publish("hb.n1", str(number).encode())
    got = await inbox.count(200)
    assert [int(message.data) for message in got] == list(range(200))
    assert back.count == 0
