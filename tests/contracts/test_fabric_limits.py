"""What streams and consumers of every fabric count, refuse and forget, to the byte."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import structs

from quarterdeck.errors import Invalid, NotFound
from quarterdeck.fabric.base import Fabric, Limits, Refused, Stored
from quarterdeck.fabric.topology import held_subjects
from tests.contracts.fabric_place import (
    DEADLINE_S,
    QUICK,
    Connections,
    Inbox,
    Place,
    replayed,
    take,
)


async def state(server: Fabric, stream: str) -> dict[str, Any]:
    data = await server.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=5)
    found: dict[str, Any] = msgspec.json.decode(data)["state"]
    return found


async def test_bytes_are_counted_alike(place: Place) -> None:
    server, node = await place.fleet()
    await node.store("out.n1.r1.1", b"x" * 100)
    await node.store("out.n1.r1.1", b"", message_id="id")
    head = len("NATS/1.0\r\nNats-Msg-Id: id\r\n\r\n")
    assert (await state(server, "OUT"))["bytes"] == 2 * (30 + len("out.n1.r1.1")) + 100 + 4 + head
    await server.purge("OUT", "out.n1.r1.1")
    assert (await state(server, "OUT"))["bytes"] == 0


async def test_a_stream_is_full_at_the_very_byte(place: Place) -> None:
    server, node = await place.fleet(out_max_bytes=1000)
    size = 30 + len("out.n1.r1.1")
    for _ in range(9):
        assert isinstance(await node.store("out.n1.r1.1", b"x" * (100 - size)), Stored)
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (101 - size)), Refused)
    assert isinstance(await node.store("out.n1.r1.1", b"x" * (100 - size)), Stored)
    refusal = await node.store("out.n1.r1.1", b"")
    assert refusal == Refused(10077, "maximum bytes exceeded")
    await server.purge("OUT", "out.n1.>")
    assert await node.store("out.n1.r1.1", b"") == Stored(11)


async def test_a_message_longer_than_its_stream_takes_is_refused_by_itself(place: Place) -> None:
    _, node = await place.fleet(ev_message_bytes=1000)
    assert isinstance(await node.store("ev.n1.attempt", b"x" * 1000), Stored)
    refusal = await node.store("ev.n1.attempt", b"x" * 1001)
    assert refusal == Refused(10054, "message size exceeds maximum allowed")
    headers = len("NATS/1.0\r\nNats-Msg-Id: id\r\n\r\n")
    assert isinstance(
        await node.store("ev.n1.attempt", b"x" * (1001 - headers), message_id="id"), Refused
    )
    assert await node.store("ev.n1.attempt", b"x" * (1000 - headers), message_id="id") == Stored(2)


@pytest.mark.parametrize(
    "limits",
    [Limits(duplicate_window_s=-1), Limits(out_compression="wishful"), Limits(replicas=3)],
)
async def test_limits_that_cannot_be_are_refused(place: Place, limits: Limits) -> None:
    server = await place.join("server", "s1")
    with pytest.raises(Invalid, match="Change the limits"):
        await server.ensure_streams(limits)
    await server.ensure_streams(Limits())
    with pytest.raises(Invalid):
        await server.ensure_streams(limits)


async def test_no_more_than_max_ack_pending_is_given_out(place: Place) -> None:
    server, node = await place.fleet(max_ack_pending=5, ack_wait_s=DEADLINE_S)
    for number in range(8):
        await node.store("ev.n1.a", str(number).encode(), message_id=str(number))
    deliveries = server.consume("EV", "ingest", batch=10)
    first = await take(deliveries, 5)
    assert [int(one.data) for one in first] == [0, 1, 2, 3, 4]
    rest = asyncio.ensure_future(take(deliveries, 3))
    for _ in range(3):
        await state(server, "EV")  # round trips, in which more would have come
    assert not rest.done()
    first[3].ack()
    first[0].ack()
    first[1].ack()
    assert [int(one.data) for one in await rest] == [5, 6, 7]
    assert (await state(server, "EV"))["messages"] == 5
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_a_pull_brings_no_more_bytes_than_it_may_and_a_larger_message_comes_alone(
    place: Place,
) -> None:
    _, node = await place.fleet(ev_message_bytes=100_000)
    bytes_of = [300] * 20 + [5000, 5000] + [300] * 20 + [9000]
    for number, size in enumerate(bytes_of):
        await node.store("ev.n1.a", bytes([number]) * size, message_id=str(number))
    server = await place.join("server", "s2", options=structs.replace(QUICK, pull_bytes=2000))
    deliveries = server.consume("EV", "ingest", batch=50)
    found: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        async for batch in deliveries:
            sizes = [len(one.data) for one in batch]
            assert len(sizes) == 1 or sum(sizes) <= 2000
            for one in batch:
                found.append(one.data[0])
                one.ack()
            if len(found) == len(bytes_of):
                break
    assert found == list(range(len(bytes_of)))
    assert not place.errors
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_a_pull_whose_bytes_come_out_even_is_followed_by_another(place: Place) -> None:
    first_server, node = await place.fleet()
    await node.store("ev.n1.a", b"x", message_id="0")
    deliveries = first_server.consume("EV", "ingest", batch=1)
    (first,) = await take(deliveries, 1)
    first.ack()
    await deliveries.aclose()  # type: ignore[attr-defined]
    reply: str = first._reply  # type: ignore[attr-defined]
    size = len("ev.n1.a" + reply + "NATS/1.0\r\nNats-Msg-Id: 0\r\n\r\n" + "x")
    for number in range(1, 5):
        await node.store("ev.n1.a", b"x", message_id=str(number))
    patient = structs.replace(QUICK, pull_bytes=2 * size, idle_heartbeat_s=60.0)
    server = await place.join("server", "s2", options=patient)
    deliveries = server.consume("EV", "ingest", batch=50)
    assert len(await take(deliveries, 4)) == 4
    assert not place.errors
    await deliveries.aclose()  # type: ignore[attr-defined]


async def test_an_id_is_forgotten_after_the_window(place: Place) -> None:
    _, node = await place.fleet(duplicate_window_s=0.3)
    assert await node.store("ev.n1.a", b"", message_id="1") == Stored(1)
    assert await node.store("ev.n1.a", b"", message_id="1") == Stored(1)
    async with asyncio.timeout(DEADLINE_S):
        while await node.store("ev.n1.a", b"", message_id="1") == Stored(1):
            pass
    assert await node.store("ev.n1.a", b"", message_id="2") == Stored(3)


async def test_after_a_restart_the_ids_of_what_is_held_are_known_and_no_others(
    place: Place,
) -> None:
    server, node = await place.fleet()
    back = Connections(node)
    await node.store("ev.n1.a", b"gone", message_id="gone")
    await node.store("ev.n1.a", b"held", message_id="held")
    deliveries = server.consume("EV", "ingest", batch=1)
    (gone,) = await take(deliveries, 1)
    gone.ack()
    await deliveries.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(DEADLINE_S):
        while (await state(server, "EV"))["messages"] != 1:
            pass
    assert await node.store("ev.n1.a", b"gone", message_id="gone") == Stored(1)
    place.kill()
    await place.up()
    await back.reach(1)
    assert await node.store("ev.n1.a", b"held", message_id="held") == Stored(2)
    # So what a consumer has worked on may come once more: it must know by itself.
    assert await node.store("ev.n1.a", b"gone", message_id="gone") == Stored(3)


async def test_what_a_stream_takes_is_heard_live_as_well(place: Place) -> None:
    server, node = await place.fleet()
    one, all_of_it = Inbox(), Inbox()
    await server.subscribe("out.*.r1.*", one)
    await server.subscribe(">", all_of_it)
    for number in range(20):
        await node.store("out.n1.r1.1", str(number).encode(), message_id=str(number))
    await node.store("out.n1.r2.1", b"other")
    assert [int(message.data) for message in await one.count(20)] == list(range(20))
    await node.publish("hb.n1", b"last")
    await node.publish("hb.n1", b"very last")
    async with asyncio.timeout(DEADLINE_S):
        while all_of_it.messages[-1].data != b"very last":
            await all_of_it.count(len(all_of_it.messages) + 1)
    assert len(one.messages) == 20


async def test_a_wildcard_purges_many_and_an_absent_stream_is_not_found(place: Place) -> None:
    server, node = await place.fleet()
    for number in range(6):
        await node.store(f"out.n1.r{number % 2}.{number}", b"")
    await server.purge("OUT", "out.*.r1.*")
    assert [one.subject for one in await replayed(server, "out.>")] == [
        "out.n1.r0.0",
        "out.n1.r0.2",
        "out.n1.r0.4",
    ]
    with pytest.raises(NotFound):
        await server.purge("ABSENT", "out.>")


async def test_the_subjects_that_a_stream_holds_are_listed(place: Place) -> None:
    server, node = await place.fleet()
    assert await held_subjects(server, "OUT", "out.>") == []
    for subject in ("out.n1.r1.1", "out.n1.r1.1", "out.n1.r2.1"):
        await node.store(subject, b"x")
    assert sorted(await held_subjects(server, "OUT", "out.>")) == ["out.n1.r1.1", "out.n1.r2.1"]
    assert await held_subjects(server, "OUT", "out.*.r2.*") == ["out.n1.r2.1"]
    await server.purge("OUT", "out.*.r1.*")
    assert await held_subjects(server, "OUT", "out.>") == ["out.n1.r2.1"]


async def test_a_consumer_that_says_nothing_gets_it_again_and_a_late_word_still_counts(
    place: Place,
) -> None:
    server, node = await place.fleet(ack_wait_s=0.3)
    await node.store("ev.n1.a", b"x", message_id="x")
    deliveries = server.consume("EV", "ingest", batch=1)
    (first,) = await take(deliveries, 1)
    (second,) = await take(deliveries, 1)
    assert second.data == first.data
    first.ack()
    async with asyncio.timeout(DEADLINE_S):
        while (await state(server, "EV"))["messages"]:
            pass
    second.ack()
    await node.store("ev.n1.a", b"y", message_id="y")
    while (await take(deliveries, 1))[0].data != b"y":
        pass  # the first may have been offered once more before its word came
    await deliveries.aclose()  # type: ignore[attr-defined]
