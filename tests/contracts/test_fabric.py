"""What every fabric must do, proven on a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from quarterdeck.errors import Conflict, Denied, Invalid, Unavailable
from quarterdeck.fabric import topology
from quarterdeck.fabric.base import Delivery, Fabric, Kept, Refused, Stored
from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.nats import NatsFabric
from tests.contracts.fabric_server import (
    DEADLINE_S,
    QUICK,
    Connections,
    Harbour,
    Inbox,
    Proxy,
    harbour,
)

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("error")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


async def replayed(fabric: Fabric, subject: str, after: int = 0) -> list[Kept]:
    return [kept async for kept in fabric.replay("OUT", subject, after=after)]


async def take(deliveries: AsyncIterator[list[Delivery]], wanted: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < wanted:
            found += await anext(deliveries)
    return found


async def run(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


# Core messages


async def test_a_published_message_reaches_its_subscriber_in_order(place: Harbour) -> None:
    server, node = await place.fleet()
    inbox = Inbox()
    await server.subscribe("hb.*", inbox)
    for number in range(100):
        await node.publish("hb.n1", str(number).encode(), reply="somewhere")
    got = await inbox.count(100)
    assert [message.data for message in got] == [str(number).encode() for number in range(100)]
    assert (got[0].subject, got[0].reply) == ("hb.n1", "somewhere")


async def test_a_closed_subscription_gets_nothing_more(place: Harbour) -> None:
    server, node = await place.fleet()
    first, second = Inbox(), Inbox()
    subscription = await server.subscribe("hb.n1", first)
    await server.subscribe("hb.n1", second)
    await subscription.close()
    await subscription.close()
    await server.purge("OUT", "out.x")  # a round trip
    await node.publish("hb.n1", b"1")
    await second.count(1)
    assert first.messages == []


async def test_of_a_queue_group_one_member_gets_each_message(place: Harbour) -> None:
    server, node = await place.fleet()
    other = await place.join("server", "s2")
    inbox = Inbox()
    await server.subscribe("hb.n1", inbox, queue="servers")
    await other.subscribe("hb.n1", inbox, queue="servers")
    for number in range(50):
        await node.publish("hb.n1", str(number).encode())
    await node.store("out.n1.r1.1", b"")
    await inbox.count(50)
    assert len({message.data for message in inbox.messages}) == 50


async def test_a_handler_that_raises_is_reported_and_the_next_message_is_handled(
    place: Harbour,
) -> None:
    server, node = await place.fleet()
    inbox = Inbox()

    def handler(message: object) -> None:
        inbox(message)
        raise ValueError("no good")

    await server.subscribe("hb.n1", handler)
    await node.publish("hb.n1", b"1")
    await node.publish("hb.n1", b"2")
    await inbox.count(2)
    assert "no good" in await place.error("hb.n1 raised")


async def test_a_request_gets_one_answer(place: Harbour) -> None:
    server, node = await place.fleet()

    def answer(message: object) -> None:
        reply = message.reply  # type: ignore[attr-defined]
        place.spawn(node.publish(reply, b"done"), "answer")

    await node.subscribe("cmd.n1.>", answer)
    assert await server.request("cmd.n1.start", b"go", timeout_s=5) == b"done"


async def test_a_second_answer_to_one_request_is_refused(place: Harbour) -> None:
    server, node = await place.fleet()
    inbox = Inbox()
    await node.subscribe("cmd.n1.>", inbox)
    await server.subscribe("reply.here", inbox)
    await server.publish("cmd.n1.start", b"go", reply="reply.here")
    await inbox.count(1)
    await node.publish("reply.here", b"first")
    await inbox.count(2)
    await node.publish("reply.here", b"second")
    assert "reply.here" in await place.error("permissions violation for publish")
    assert len(inbox.messages) == 2


async def test_a_request_to_nobody_fails_at_once(place: Harbour) -> None:
    server, _ = await place.fleet()
    with pytest.raises(Unavailable) as failure:
        await server.request("cmd.absent.start", b"", timeout_s=DEADLINE_S)
    assert failure.value.code == "no_responders"


async def test_a_request_without_answer_times_out(place: Harbour) -> None:
    server, node = await place.fleet()
    await node.subscribe("cmd.n1.>", Inbox())
    with pytest.raises(Unavailable) as failure:
        await server.request("cmd.n1.start", b"", timeout_s=0.05)
    assert failure.value.code == "timeout"


async def test_a_request_is_told_when_the_link_goes_down(place: Harbour) -> None:
    server, node = await place.fleet()
    asked = Inbox()
    await node.subscribe("cmd.n1.>", asked)
    request = asyncio.ensure_future(server.request("cmd.n1.start", b"", timeout_s=DEADLINE_S))
    await asked.count(1)
    place.kill()
    with pytest.raises(Unavailable) as failure:
        await request
    assert failure.value.code == "disconnected"
    with pytest.raises(Unavailable):
        await node.publish("hb.n1", b"lost")
    with pytest.raises(Unavailable):
        await replayed(server, "out.>")


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "a\tb"])
async def test_a_subject_that_breaks_the_protocol_is_invalid(place: Harbour, subject: str) -> None:
    server, _ = await place.fleet()
    with pytest.raises(Invalid):
        await server.publish(subject, b"")
    with pytest.raises(Invalid):
        server.store(subject, b"")
    with pytest.raises(Invalid):
        await server.subscribe(subject, Inbox())


async def test_a_message_that_is_too_large_is_refused_and_costs_no_connection(
    place: Harbour,
) -> None:
    server, node = await place.fleet()
    connections = Connections(node)
    with pytest.raises(Invalid):
        await node.publish("hb.n1", b"x" * (9 << 20))
    refusal = await node.store("out.n1.r1.1", b"x" * (9 << 20))
    assert isinstance(refusal, Refused)
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (8 << 20)), Stored)
    assert len(await replayed(server, "out.n1.>")) == 1
    assert connections.count == 0


# Streams


async def test_a_stored_message_is_acknowledged_with_its_sequence(place: Harbour) -> None:
    _, node = await place.fleet()
    first = await node.store("out.n1.r1.1", b"a")
    second = await node.store("out.n1.r1.1", b"b")
    assert (first, second) == (Stored(1), Stored(2))


async def test_one_message_id_is_stored_once(place: Harbour) -> None:
    server, node = await place.fleet()
    first = await node.store("ev.n1.attempt", b"a", message_id="e1")
    assert await node.store("ev.n1.attempt", b"a", message_id="e1") == first
    assert await node.store("ev.n1.attempt", b"b", message_id="e2") == Stored(2)
    deliveries = server.consume("EV", "ingest", batch=10)
    assert [delivery.data for delivery in await take(deliveries, 2)] == [b"a", b"b"]
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_a_full_stream_refuses_and_takes_again_after_a_purge(place: Harbour) -> None:
    server, node = await place.fleet(out_max_bytes=64 << 10)
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (40 << 10)), Stored)
    refusal = await node.store("out.n1.r1.1", b"x" * (40 << 10))
    assert isinstance(refusal, Refused)
    assert refusal.code == topology.FULL
    await server.purge("OUT", "out.n1.r1.1")
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (40 << 10)), Stored)


async def test_a_store_to_a_foreign_subject_is_refused(place: Harbour) -> None:
    _, node = await place.fleet()
    refusal = await node.store("out.n2.r1.1", b"x")
    assert isinstance(refusal, Refused)
    assert "out.n2.r1.1" in refusal.text


async def test_a_replay_gives_one_subject_of_many_oldest_first(place: Harbour) -> None:
    server, node = await place.fleet()
    pending = [node.store(f"out.n1.r{number % 5}.1", str(number).encode()) for number in range(500)]
    await asyncio.gather(*pending)
    kept = await replayed(server, "out.n1.r3.1")
    assert [int(one.data) for one in kept] == list(range(3, 500, 5))
    assert {one.subject for one in kept} == {"out.n1.r3.1"}
    assert len(await replayed(server, "out.n1.>")) == 500


async def test_a_replay_goes_on_after_a_sequence(place: Harbour) -> None:
    server, node = await place.fleet()
    await asyncio.gather(*(node.store("out.n1.r1.1", str(n).encode()) for n in range(3000)))
    kept = await replayed(server, "out.n1.r1.1")
    assert [int(one.data) for one in kept] == list(range(3000))
    rest = await replayed(server, "out.n1.r1.1", after=kept[1233].sequence)
    assert rest == kept[1234:]
    assert await replayed(server, "out.n1.r1.1", after=kept[-1].sequence) == []


async def test_a_replay_of_nothing_is_empty_and_of_no_stream_unavailable(place: Harbour) -> None:
    server, node = await place.fleet()
    assert await replayed(server, "out.n1.r1.1") == []
    await node.store("out.n1.r2.1", b"x")
    assert await replayed(server, "out.n1.r1.1") == []
    with pytest.raises(Unavailable) as failure:
        async for _ in server.replay("ABSENT", "out.>"):
            pass
    assert failure.value.code == "no_responders"


async def test_a_replay_can_be_left_early(place: Harbour) -> None:
    server, node = await place.fleet()
    await asyncio.gather(*(node.store("out.n1.r1.1", b"x" * 10000) for _ in range(2000)))
    messages = server.replay("OUT", "out.n1.r1.1")
    assert (await anext(messages)).sequence == 1
    await messages.aclose()  # type: ignore[attr-defined]
    assert len(await replayed(server, "out.n1.r1.1")) == 2000


async def test_a_purge_removes_one_subject_only(place: Harbour) -> None:
    server, node = await place.fleet()
    await asyncio.gather(*(node.store(f"out.n1.r{n % 2}.1", b"x") for n in range(10)))
    await server.purge("OUT", "out.n1.r0.1")
    assert await replayed(server, "out.n1.r0.1") == []
    assert len(await replayed(server, "out.n1.r1.1")) == 5


async def test_what_is_not_acknowledged_comes_again(place: Harbour) -> None:
    server, node = await place.fleet(ack_wait_s=0.3)
    for number in range(4):
        await node.store("ev.n1.attempt", str(number).encode(), message_id=str(number))
    deliveries = server.consume("EV", "ingest", batch=10)
    for delivery in await take(deliveries, 4):
        if delivery.data != b"2":
            delivery.ack()
    (again,) = await take(deliveries, 1)
    assert (again.subject, again.data) == ("ev.n1.attempt", b"2")
    again.ack()
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_a_consumer_waits_for_its_stream_to_be_made(place: Harbour) -> None:
    server, node = await place.join("server", "s1"), await place.join("node", "n1")
    deliveries = server.consume("EV", "ingest", batch=10)
    first = asyncio.ensure_future(take(deliveries, 1))
    stored = node.store("ev.n1.a", b"early", message_id="1")
    await place.error("a pull from")
    await topology.ensure(server, topology.Limits())
    assert [delivery.data for delivery in await first] == [b"early"]
    assert await stored == Stored(1)
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_what_a_leaving_consumer_did_not_take_goes_to_another(place: Harbour) -> None:
    server, node = await place.fleet(ack_wait_s=5)
    other = await place.join("server", "s2")
    stores = [node.store("ev.n1.a", str(n).encode(), message_id=str(n)) for n in range(40)]
    await asyncio.gather(*stores)
    leaving = server.consume("EV", "ingest", batch=10)
    taken = await take(leaving, 10)
    # The next ten are on their way or here already.
    await server.request("$JS.API.INFO", b"", timeout_s=5)
    await leaving.aclose()  # type: ignore[attr-defined]
    staying = other.consume("EV", "ingest", batch=10)
    rest = await take(staying, 40 - len(taken))
    assert {one.data for one in taken + rest} == {str(n).encode() for n in range(40)}
    await staying.aclose()  # type: ignore[attr-defined]


async def test_consumers_share_the_work(place: Harbour) -> None:
    server, node = await place.fleet()
    other = await place.join("server", "s2")
    seen: list[bytes] = []
    done = asyncio.Event()

    async def work(fabric: NatsFabric) -> None:
        async for batch in fabric.consume("EV", "ingest", batch=7):
            assert len(batch) <= 7
            for delivery in batch:
                seen.append(delivery.data)
                delivery.ack()
            if len(seen) >= 500:
                done.set()

    tasks = [place.spawn(work(fabric), "work") for fabric in (server, other)]
    stores = [node.store("ev.n1.a", str(n).encode(), message_id=str(n)) for n in range(500)]
    await asyncio.gather(*stores)
    await asyncio.wait_for(done.wait(), DEADLINE_S)
    assert sorted(map(int, seen)) == list(range(500))
    await server.stop()
    await other.stop()
    await asyncio.gather(*tasks)  # a stopped link ends its consumers


async def test_ensure_changes_limits_and_keeps_messages(place: Harbour) -> None:
    server, node = await place.fleet(out_max_bytes=1 << 20)
    await node.store("out.n1.r1.1", b"x")
    await topology.ensure(server, topology.Limits(out_max_bytes=2 << 20, max_ack_pending=7))
    await topology.ensure(server, topology.Limits(out_max_bytes=2 << 20, max_ack_pending=7))
    info = msgspec.json.decode(await server.request("$JS.API.STREAM.INFO.OUT", b"", timeout_s=5))
    assert info["config"]["max_bytes"] == 2 << 20
    assert info["state"]["messages"] == 1
    assert info["config"]["allow_direct"] is True


async def test_headers_of_a_publisher_cannot_pass_for_those_of_the_stream(place: Harbour) -> None:
    server, node = await place.fleet()
    await node.store("out.n1.r1.1", b"1")
    client = node._link.client
    assert client is not None
    forged = b"NATS/1.0\r\nNats-Subject: out.n2.r9.1\r\nNats-Sequence: 99\r\n\r\n"
    client.post("out.n1.r1.1", b"2", headers=forged)
    client.post("out.n1.r1.1", b"3", headers=b"NATS/1.0 204 EOB\r\n\r\n")
    await node.store("out.n1.r1.1", b"4")
    kept = await replayed(server, "out.>")
    assert [(one.sequence, one.subject) for one in kept] == [
        (number, "out.n1.r1.1") for number in range(1, 5)
    ]


# Faults


async def test_nothing_stored_is_lost_when_the_server_is_killed(place: Harbour) -> None:
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


async def test_subscriptions_and_callbacks_come_back_after_a_kill(place: Harbour) -> None:
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


async def test_a_subscription_made_while_the_link_is_down_stands_later(place: Harbour) -> None:
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


async def test_a_consumer_goes_on_after_a_kill(place: Harbour) -> None:
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


async def test_a_black_hole_is_noticed_and_mended(place: Harbour) -> None:
    server, _ = await place.fleet()
    inbox = Inbox()
    await server.subscribe("hb.n9", inbox)
    async with Proxy(urlsplit(place.server.url).port or 0) as proxy:
        node = await place.join("node", "n9", url=proxy.url)
        back, commands = Connections(node), Inbox()
        await node.subscribe("cmd.n9.>", commands)
        proxy.swallow()
        # More than the socket buffers and nats-py's pending bytes hold.
        stores = [node.store("out.n9.r1.1", b"x" * (1 << 20)) for _ in range(24)]
        await back.reach(1)
        await node.publish("hb.n9", b"here")
        await inbox.count(1)
        await server.publish("cmd.n9.start", b"")
        await commands.count(1)
        await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
        await node.stop()


async def test_a_slow_link_is_not_taken_for_a_dead_one_and_repeats_nothing(
    place: Harbour,
) -> None:
    server, _ = await place.fleet()
    # 8 MiB at 4 MB/s: two seconds, against 0.6 s of pings and 0.5 s for answers.
    async with Proxy(urlsplit(place.server.url).port or 0, bytes_per_s=4_000_000) as proxy:
        node = await place.join("node", "n9", url=proxy.url)
        back = Connections(node)
        stores = [node.store("out.n9.r1.1", b"x" * (64 << 10)) for _ in range(128)]
        await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
        assert back.count == 0
        assert len(await replayed(server, "out.n9.>")) == 128
        await node.stop()


async def test_a_link_can_be_stopped_in_a_black_hole_and_while_dialling(place: Harbour) -> None:
    _, node = await place.fleet()
    async with Proxy(urlsplit(place.server.url).port or 0) as proxy:
        stuck = await place.join("node", "n9", url=proxy.url, options=QUICK)
        proxy.swallow()
        future = stuck.store("out.n9.r1.1", b"x" * (4 << 20))
        await asyncio.wait_for(stuck.stop(), DEADLINE_S)
        assert future.cancelled()
        await stuck.stop()
    place.kill()
    await place.error("cannot be reached")
    await asyncio.wait_for(node.stop(), DEADLINE_S)
    assert not node.connected


async def test_no_fabric_is_unavailable_with_a_sentence(place: Harbour) -> None:
    link = place.make("node", "n1", url="nats://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached .* check that"):
        await link.start()
    assert not link.connected


# Rights


async def test_a_login_of_another_authority_is_denied_with_a_sentence(
    place: Harbour, tmp_path: Path
) -> None:
    other = Harbour(tmp_path / "other")
    link = other.make("node", "n1", url=place.server.url)
    with pytest.raises(Denied, match="does not admit 'n1'"):
        await link.start()
    await link.stop()


async def test_a_login_with_the_key_of_someone_else_is_denied(place: Harbour) -> None:
    thief = place.identity("thief")

    async def stolen() -> str:
        key = place.identity("n1").public_key
        return place.authority.mint_node("n1", key, now=int(time.time()), ttl_s=60)

    link = NatsFabric(
        [place.server.url], "n1", jwt_source=stolen, signer=thief.sign, spawn=place.spawn
    )
    with pytest.raises(Denied):
        await link.start()


@pytest.mark.parametrize("subject", ["hb.n2", "ev.n2.a", "out.n2.r.1", "cmd.n1.x", "cmd.n2.x"])
async def test_a_node_cannot_publish_as_another(place: Harbour, subject: str) -> None:
    server, node = await place.fleet()
    inbox = Inbox()
    await server.subscribe(">", inbox)
    await node.publish(subject, b"forged")
    assert subject in await place.error("permissions violation for publish")
    assert not [message for message in inbox.messages if message.data == b"forged"]


@pytest.mark.parametrize(
    "subject",
    ["cmd.n2.>", "cmd.*.start", "hb.n2", "ev.>", "out.n1.>", "tail.n2.s.in", "_INBOX_s1.>", ">"],
)
async def test_a_node_cannot_listen_to_others(place: Harbour, subject: str) -> None:
    _, node = await place.fleet()
    with pytest.raises(Denied, match="no right to"):
        await node.subscribe(subject, Inbox())


async def test_a_node_cannot_read_or_change_streams(place: Harbour) -> None:
    server, node = await place.fleet()
    await node.store("out.n1.r1.1", b"secret")
    with pytest.raises(Unavailable):
        await replayed(node, "out.>")
    for call in ("STREAM.INFO.OUT", "STREAM.PURGE.OUT", "CONSUMER.MSG.NEXT.EV.ingest"):
        with pytest.raises(Denied):
            await node.request(f"$JS.API.{call}", b"", timeout_s=DEADLINE_S)
    assert len(await replayed(server, "out.>")) == 1


async def test_a_revoked_node_is_cut_and_stays_out(place: Harbour) -> None:
    _, node = await place.fleet()
    system = await place.join("system", "sys")
    login = place.authority.mint_node(
        "n7", place.identity("n7").public_key, now=int(time.time()), ttl_s=3600
    )

    async def same() -> str:
        return login

    revoked = await place.join("node", "n7", jwt_source=same)
    place.authority.revoke(place.identity("n7").public_key, int(time.time()))
    start = time.monotonic()
    await place.authority.push_account(system)
    await place.error("link to the fabric lost")
    assert time.monotonic() - start < 2
    assert "n7" in await place.error("does not admit")
    assert not revoked.connected
    assert node.connected
    place.kill()
    await place.up()  # the revocation is part of what the server starts from
    place.errors.clear()
    again = place.make("node", "n7", jwt_source=same)
    with pytest.raises(Denied):
        await again.start()


async def test_an_expired_login_comes_back_with_a_new_one(place: Harbour) -> None:
    key = place.identity("n1").public_key
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        ttl_s = 2 if asked == 1 else 3600
        return place.authority.mint_node("n1", key, now=int(time.time()), ttl_s=ttl_s)

    node = await place.join("node", "n1", jwt_source=source)
    back = Connections(node)
    await place.error("link to the fabric lost")
    await back.reach(1)
    await node.publish("hb.n1", b"")
    assert asked == 2


async def test_a_link_dials_at_once_with_a_renewed_login(place: Harbour) -> None:
    slow = msgspec.structs.replace(QUICK, backoff_first_s=3600.0, backoff_cap_s=3600.0)
    node = await place.join("node", "n1", options=slow)
    back = Connections(node)
    node.reconnect()
    await back.reach(1)
    assert node.connected


async def test_a_stopped_link_takes_nothing(place: Harbour) -> None:
    _, node = await place.fleet()
    await node.stop()
    assert node.store("out.n1.r1.1", b"x").cancelled()
    with pytest.raises(Unavailable):
        await node.publish("hb.n1", b"")


# The embedded server


async def test_a_restart_keeps_the_port_and_a_second_user_is_refused(place: Harbour) -> None:
    url = place.server.url
    second = EmbeddedFabric(place.root / "fabric", place.authority)
    with pytest.raises(Conflict, match="Another quarterdeck uses"):
        second.prepare()
    await place.down()
    second.prepare()
    try:
        assert second.url == url
        child = second.spawn()
        await second.wait_ready(DEADLINE_S)
        assert second.url == url
        assert not await second.storage_disabled()
        child.terminate()
        child.wait(DEADLINE_S)
    finally:
        second.close()


async def test_a_port_taken_by_another_program_is_a_conflict(place: Harbour) -> None:
    port = urlsplit(place.server.url).port or 0
    other = EmbeddedFabric(place.root / "second", place.authority, port=port)
    with pytest.raises(Conflict, match=f"Port {port} .* taken by another program"):
        other.prepare()


async def test_why_the_server_would_not_run_is_told_in_a_sentence(place: Harbour) -> None:
    bad = EmbeddedFabric(place.root / "bad", place.authority, extra={"no_such_key": 1})
    bad.spawn()
    try:
        with pytest.raises(Unavailable, match='unknown field "no_such_key"'):
            await bad.wait_ready(DEADLINE_S)
    finally:
        bad.close()


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


async def test_the_server_ends_with_its_supervisor(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from quarterdeck.fabric.embedded import EmbeddedFabric
        from quarterdeck.fabric.identity import Authority
        root = Path(sys.argv[1])
        fabric = EmbeddedFabric(root / "fabric", Authority.open(root / "authority"))
        child = fabric.spawn()
        asyncio.run(fabric.wait_ready())
        print(child.pid, flush=True)
        sys.stdin.read()
    """)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert supervisor.stdout is not None
        pid = int(await asyncio.to_thread(supervisor.stdout.readline))
        watch = os.pidfd_open(pid)
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait(DEADLINE_S)
        for pipe in (supervisor.stdin, supervisor.stdout):
            if pipe is not None:
                pipe.close()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(watch, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
    finally:
        loop.remove_reader(watch)
        os.close(watch)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
