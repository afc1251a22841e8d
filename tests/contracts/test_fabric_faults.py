"""The link and the streams when the server dies, the network lies or the disk is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quarterdeck.errors import Unavailable
from quarterdeck.fabric.base import Stored
from tests.contracts.fabric_place import (
    DEADLINE_S,
    QUICK,
    Connections,
    Inbox,
    Place,
    replayed,
    take,
)
from tests.contracts.fabric_proxy import Proxy
from tests.contracts.fabric_server import Harbour, harbour


async def run(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def test_nothing_stored_is_lost_when_the_server_is_killed(place: Place) -> None:
    server, node = await place.fleet()
    back = Connections(node)
    await node.store("ev.n1.a", b"first", message_id="first")
    stores = [node.store("ev.n1.a", str(n).encode(), message_id=str(n)) for n in range(2000)]
    await asyncio.wait_for(asyncio.shield(stores[300]), DEADLINE_S)
    place.kill()
    await place.error("link to the fabric lost")
    stores += [node.store("ev.n1.a", str(n).encode(), message_id=str(n)) for n in range(2000, 2500)]
    await place.up()
    await back.reach(1)
    results = await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
    assert all(isinstance(result, Stored) for result in results)
    deliveries = server.consume("EV", "ingest", batch=500)
    found = await take(deliveries, 2501)
    assert {delivery.data for delivery in found[1:]} == {str(n).encode() for n in range(2500)}
    assert len(found) == 2501
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_subscriptions_and_callbacks_come_back_after_a_kill(place: Place) -> None:
    server, node = await place.fleet()
    inbox, back, node_back = Inbox(), Connections(server), Connections(node)
    await server.subscribe("hb.n1", inbox)
    await node.publish("hb.n1", b"before")
    await inbox.count(1)
    for turn in range(3):
        place.kill()
        await place.up()
        await back.reach(turn + 1)
        await node_back.reach(turn + 1)
        assert server.connected
        await node.publish("hb.n1", b"after")
        await inbox.count(turn + 2)


async def test_a_subscription_made_while_the_link_is_down_stands_later(place: Place) -> None:
    server, node = await place.fleet()
    inbox, back, node_back = Inbox(), Connections(server), Connections(node)
    place.kill()
    await place.error("link to the fabric lost")
    await server.subscribe("hb.n1", inbox)
    await place.up()
    await back.reach(1)
    await node_back.reach(1)
    await node.publish("hb.n1", b"x")
    await inbox.count(1)


async def test_a_consumer_goes_on_after_a_kill(place: Place) -> None:
    server, node = await place.fleet(ack_wait_s=0.5)
    deliveries = server.consume("EV", "ingest", batch=10)
    await node.store("ev.n1.a", b"0", message_id="0")
    (first,) = await take(deliveries, 1)
    first.ack()
    for number in range(1, 4):
        place.kill()
        await place.up()
        data = str(number).encode()
        await asyncio.wait_for(node.store("ev.n1.a", data, message_id=str(number)), DEADLINE_S)
        found = None
        while found is None or found.data != data:  # an acknowledgement may have been lost
            (found, *_) = await take(deliveries, 1)
            found.ack()
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_a_slow_link_is_not_taken_for_a_dead_one_and_repeats_nothing(
    nats: Harbour,
) -> None:
    server, _ = await nats.fleet()
    # 8 MiB at 4 MB/s: two seconds, against 0.6 s of pings and 0.5 s for answers.
    async with Proxy(nats.port, bytes_per_s=4_000_000) as proxy:
        node = await nats.join("node", "n9", url=proxy.url)
        back = Connections(node)
        stores = [node.store("out.n9.r1.1", b"x" * (64 << 10)) for _ in range(128)]
        await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
        assert back.count == 0
        assert len(await replayed(server, "out.n9.>")) == 128
        await node.stop()


async def test_a_link_can_be_stopped_in_a_black_hole_and_while_dialling(nats: Harbour) -> None:
    _, node = await nats.fleet()
    async with Proxy(nats.port) as proxy:
        stuck = await nats.join("node", "n9", url=proxy.url, options=QUICK)
        proxy.swallow()
        future = stuck.store("out.n9.r1.1", b"x" * (4 << 20))
        await asyncio.wait_for(stuck.stop(), DEADLINE_S)
        assert future.cancelled()
        await stuck.stop()
    nats.kill()
    await nats.error("cannot be reached")
    await asyncio.wait_for(node.stop(), DEADLINE_S)
    assert not node.connected


async def test_no_fabric_is_unavailable_with_a_sentence(nats: Harbour) -> None:
    link = nats.make("node", "n1", url="nats://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached .* check that"):
        await link.start()
    assert not link.connected


async def test_a_full_disk_is_told_and_mended_by_a_restart(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if await run("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)) != 0:
        pytest.skip("only root can mount a small disk")
    try:
        async with harbour(disk) as place:
            server, node = await place.fleet()
            back = Connections(server)
            stores = [node.store("out.n1.r1.1", b"x" * (1 << 20)) for _ in range(60)]
            await place.error("no answer from the stream of out.n1.r1.1")
            assert await place.server.storage_disabled()
            kept = len(await replayed(server, "out.n1.r1.1"))
            assert kept == sum(store.done() for store in stores)
            place.kill()
            with pytest.raises(Unavailable, match="free at least"):
                await place.up()
            assert await run("mount", "-o", "remount,size=256m", str(disk)) == 0
            await place.up()
            await back.reach(1)
            assert not await place.server.storage_disabled()
            results = await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
            assert all(isinstance(result, Stored) for result in results)
            assert len(await replayed(server, "out.n1.r1.1")) >= 60
    finally:
        assert await run("umount", "-l", str(disk)) == 0
