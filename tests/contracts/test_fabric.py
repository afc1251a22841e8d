"""What every fabric must do, proven on a real nats-server and on the one in memory."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric import topology
from quarterdeck.fabric.base import Fabric, Limits, Refused, Stored
from tests.contracts.fabric_place import (
    DEADLINE_S,
    Connections,
    Inbox,
    Place,
    replayed,
    take,
)

# Core messages


async def test_a_published_message_reaches_its_subscriber_in_order(place: Place) -> None:
    server, node = await place.fleet()
    inbox = Inbox()
    await server.subscribe("hb.*", inbox)
    for number in range(100):
        await node.publish("hb.n1", str(number).encode(), reply="somewhere")
    got = await inbox.count(100)
    assert [message.data for message in got] == [str(number).encode() for number in range(100)]
    assert (got[0].subject, got[0].reply) == ("hb.n1", "somewhere")


async def test_a_closed_subscription_gets_nothing_more(place: Place) -> None:
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


async def test_of_a_queue_group_one_member_gets_each_message(place: Place) -> None:
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
    place: Place,
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


async def test_a_request_gets_one_answer(place: Place) -> None:
    server, node = await place.fleet()

    def answer(message: object) -> None:
        reply = message.reply  # type: ignore[attr-defined]
        place.spawn(node.publish(reply, b"done"), "answer")

    await node.subscribe("cmd.n1.>", answer)
    assert await server.request("cmd.n1.start", b"go", timeout_s=5) == b"done"


async def test_a_second_answer_to_one_request_is_refused(place: Place) -> None:
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


async def test_a_request_to_nobody_fails_at_once(place: Place) -> None:
    server, _ = await place.fleet()
    with pytest.raises(Unavailable) as failure:
        await server.request("cmd.absent.start", b"", timeout_s=DEADLINE_S)
    assert failure.value.code == "no_responders"


async def test_a_request_without_answer_times_out(place: Place) -> None:
    server, node = await place.fleet()
    await node.subscribe("cmd.n1.>", Inbox())
    with pytest.raises(Unavailable) as failure:
        await server.request("cmd.n1.start", b"", timeout_s=0.05)
    assert failure.value.code == "timeout"


async def test_a_request_is_told_when_the_link_goes_down(place: Place) -> None:
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
async def test_a_subject_that_breaks_the_protocol_is_invalid(place: Place, subject: str) -> None:
    server, _ = await place.fleet()
    with pytest.raises(Invalid):
        await server.publish(subject, b"")
    with pytest.raises(Invalid):
        server.store(subject, b"")
    with pytest.raises(Invalid):
        await server.subscribe(subject, Inbox())


async def test_a_message_that_is_too_large_is_refused_and_costs_no_connection(
    place: Place,
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


async def test_a_stored_message_is_acknowledged_with_its_sequence(place: Place) -> None:
    _, node = await place.fleet()
    first = await node.store("out.n1.r1.1", b"a")
    second = await node.store("out.n1.r1.1", b"b")
    assert (first, second) == (Stored(1), Stored(2))


async def test_one_message_id_is_stored_once(place: Place) -> None:
    server, node = await place.fleet()
    first = await node.store("ev.n1.attempt", b"a", message_id="e1")
    assert await node.store("ev.n1.attempt", b"a", message_id="e1") == first
    assert await node.store("ev.n1.attempt", b"b", message_id="e2") == Stored(2)
    deliveries = server.consume("EV", "ingest", batch=10)
    assert [delivery.data for delivery in await take(deliveries, 2)] == [b"a", b"b"]
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_a_full_stream_refuses_and_takes_again_after_a_purge(place: Place) -> None:
    server, node = await place.fleet(out_max_bytes=64 << 10)
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (40 << 10)), Stored)
    refusal = await node.store("out.n1.r1.1", b"x" * (40 << 10))
    assert isinstance(refusal, Refused)
    assert refusal.code == topology.FULL
    await server.purge("OUT", "out.n1.r1.1")
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (40 << 10)), Stored)


async def test_a_store_to_a_foreign_subject_is_refused(place: Place) -> None:
    _, node = await place.fleet()
    refusal = await node.store("out.n2.r1.1", b"x")
    assert isinstance(refusal, Refused)
    assert "out.n2.r1.1" in refusal.text


async def test_a_replay_gives_one_subject_of_many_oldest_first(place: Place) -> None:
    server, node = await place.fleet()
    pending = [node.store(f"out.n1.r{number % 5}.1", str(number).encode()) for number in range(500)]
    await asyncio.gather(*pending)
    kept = await replayed(server, "out.n1.r3.1")
    assert [int(one.data) for one in kept] == list(range(3, 500, 5))
    assert {one.subject for one in kept} == {"out.n1.r3.1"}
    assert len(await replayed(server, "out.n1.>")) == 500


async def test_a_replay_goes_on_after_a_sequence(place: Place) -> None:
    server, node = await place.fleet()
    # with ids: what is sent again for want of a quick ack is kept once
    sends = (node.store("out.n1.r1.1", b"%d" % n, message_id=str(n)) for n in range(3000))
    await asyncio.gather(*sends)
    kept = await replayed(server, "out.n1.r1.1")
    assert [int(one.data) for one in kept] == list(range(3000))
    rest = await replayed(server, "out.n1.r1.1", after=kept[1233].sequence)
    assert rest == kept[1234:]
    assert await replayed(server, "out.n1.r1.1", after=kept[-1].sequence) == []


async def test_a_replay_of_nothing_is_empty_and_of_no_stream_unavailable(place: Place) -> None:
    server, node = await place.fleet()
    assert await replayed(server, "out.n1.r1.1") == []
    await node.store("out.n1.r2.1", b"x")
    assert await replayed(server, "out.n1.r1.1") == []
    with pytest.raises(Unavailable) as failure:
        async for _ in server.replay("ABSENT", "out.>"):
            pass
    assert failure.value.code == "no_responders"


async def test_a_replay_can_be_left_early(place: Place) -> None:
    server, node = await place.fleet()
    sends = (node.store("out.n1.r1.1", b"x" * 10000, message_id=str(n)) for n in range(2000))
    await asyncio.gather(*sends)
    messages = server.replay("OUT", "out.n1.r1.1")
    assert (await anext(messages)).sequence == 1
    await messages.aclose()  # type: ignore[attr-defined]
    assert len(await replayed(server, "out.n1.r1.1")) == 2000


async def test_a_purge_removes_one_subject_only(place: Place) -> None:
    server, node = await place.fleet()
    await asyncio.gather(*(node.store(f"out.n1.r{n % 2}.1", b"x") for n in range(10)))
    await server.purge("OUT", "out.n1.r0.1")
    assert await replayed(server, "out.n1.r0.1") == []
    assert len(await replayed(server, "out.n1.r1.1")) == 5


async def test_what_is_not_acknowledged_comes_again(place: Place) -> None:
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


async def test_a_consumer_waits_for_its_stream_to_be_made(place: Place) -> None:
    server, node = await place.join("server", "s1"), await place.join("node", "n1")
    deliveries = server.consume("EV", "ingest", batch=10)
    first = asyncio.ensure_future(take(deliveries, 1))
    stored = node.store("ev.n1.a", b"early", message_id="1")
    await place.error("a pull from")
    await server.ensure_streams(Limits())
    assert [delivery.data for delivery in await first] == [b"early"]
    assert await stored == Stored(1)
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_what_a_leaving_consumer_did_not_take_goes_to_another(place: Place) -> None:
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


async def test_consumers_share_the_work(place: Place) -> None:
    server, node = await place.fleet()
    other = await place.join("server", "s2")
    seen: list[bytes] = []
    done = asyncio.Event()

    async def work(fabric: Fabric) -> None:
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


async def test_ensure_changes_limits_and_keeps_messages(place: Place) -> None:
    server, node = await place.fleet(out_max_bytes=1 << 20)
    await node.store("out.n1.r1.1", b"x")
    await server.ensure_streams(Limits(out_max_bytes=2 << 20, max_ack_pending=7))
    await server.ensure_streams(Limits(out_max_bytes=2 << 20, max_ack_pending=7))
    info = msgspec.json.decode(await server.request("$JS.API.STREAM.INFO.OUT", b"", timeout_s=5))
    assert info["config"]["max_bytes"] == 2 << 20
    assert info["state"]["messages"] == 1
    assert info["config"]["allow_direct"] is True


async def test_headers_of_a_publisher_cannot_pass_for_those_of_the_stream(place: Place) -> None:
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
