"""The edges of nats-py and of nats-server, each shown handled on a real nats-server.

The points are those of the list in the design of the fabric. What names no file is here;
faults, rights and load are test_fabric_faults.py and so on.

| point | what happens | shown by |
|---|---|---|
| 1 | a handshake that never ends, a zombie | a_server_that_never_answers, a_handshake_that_stops, |
|   |  | an_info_that_overtakes_the_pong |
| 2 | an -ERR ends a connection for ever | whatever_the_server_says, an_expired_login |
| 3 | a black hole with bytes unsent | a_black_hole_is_noticed; faults: a_slow_link_is_not_taken, |
|   |  | a_link_can_be_stopped_in_a_black_hole |
| 4 | pulls lost, ordered consumers that lose | a_pull_that_was_lost, load: everything_goes_on; |
|   |  | faults: a_consumer_goes_on_after_a_kill; unit/test_stream.py: splice |
| 5 | an answer to a publish that never comes | load: everything_goes_on; |
|   |  | faults: nothing_stored_is_lost; test_fabric: a_full_stream_refuses |
| 6 | a refused subject looks like a timeout | a_refused_subject_is_denied; |
|   |  | rights: a_node_cannot_listen, a_node_cannot_read_or_change |
| 7 | a small buffer; dials all at once | the_buffer_is_large, dials_are_spread |
| 8 | kv and the rest of nats-py's JetStream | test_fabric_lean.py |
| 9 | publishes vanish, pending bytes overflow | publishes_in_a_black_hole; |
|   |  | test_fabric: a_request_is_told_when_the_link_goes_down |
| - | slow readers | load: a_reader_that_is_cut_for_slowness, a_handler_that_is_slow |
| - | foreign errors on the way | a_link_outlives_errors, a_link_outlives_a_connection |
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
import nats.aio.client
import pytest

from quarterdeck.errors import Denied, Unavailable
from quarterdeck.fabric.base import Limits, Refused, Stored
from quarterdeck.fabric.connection import ROOM
from quarterdeck.fabric.nats.client import Client
from quarterdeck.fabric.nats.fabric import LinkedFabric
from tests.contracts.fabric_place import (
    DEADLINE_S,
    QUICK,
    Connections,
    Inbox,
    replayed,
    take,
)
from tests.contracts.fabric_proxy import HANDSHAKE, Proxy
from tests.contracts.fabric_server import Harbour

HASTY = msgspec.structs.replace(QUICK, connect_timeout_s=0.4)
NOTICED_S = QUICK.ping_interval_s * (QUICK.pings_outstanding + 2)
"""One look more than silent ones are allowed, and the wait for the first."""


async def until_up(node: LinkedFabric) -> None:
    """Started; a busy machine may need more than one of the short times of `HASTY`."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(Unavailable):
                return await node.start()


@pytest.mark.parametrize("answers", [0, 1], ids=["never answers", "stops after CONNECT"])
async def test_a_handshake_that_does_not_end_is_unavailable_within_its_time(
    nats: Harbour, answers: int
) -> None:
    async with Proxy(nats.port) as proxy:
        proxy.answer(answers)
        node = nats.make("node", "n1", url=proxy.url, options=HASTY)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await node.start()
        assert time.monotonic() - began < QUICK.connect_timeout_s
        assert not node.connected
        proxy.answer(HANDSHAKE)
        await until_up(node)
        await node.publish("hb.n1", b"")
        await node.stop()


@pytest.mark.parametrize("answers", [0, 1], ids=["never answers", "stops after CONNECT"])
async def test_a_link_gets_past_servers_that_do_not_end_the_handshake(
    nats: Harbour, answers: int
) -> None:
    server, _ = await nats.fleet()
    inbox = Inbox()
    await server.subscribe("hb.n9", inbox)
    async with Proxy(nats.port) as proxy:
        node = nats.make("node", "n9", url=proxy.url, options=HASTY)
        await until_up(node)
        back, accepted = Connections(node), proxy.accepted
        proxy.answer(answers)
        node.reconnect()
        await proxy.accept(accepted + 2, DEADLINE_S)
        assert not node.connected
        with pytest.raises(Unavailable):
            await node.publish("hb.n9", b"into nothing")
        proxy.answer(HANDSHAKE)
        await back.reach(1)
        await node.publish("hb.n9", b"back")
        assert [message.data for message in await inbox.count(1)] == [b"back"]
        await node.stop()


async def test_an_info_that_overtakes_the_pong_costs_one_dial_more(nats: Harbour) -> None:
    async with Proxy(nats.port) as proxy:
        proxy.repeat_info(1)
        node = await nats.join("node", "n9", url=proxy.url)
        assert proxy.accepted == 2
        await node.publish("hb.n9", b"")
        await node.stop()


@pytest.mark.parametrize(
    "words",
    [
        "'Stale Connection'",
        "'Slow Consumer'",
        "'Maximum Connections Exceeded'",
        "'Authorization Violation'",
        "'User Authentication Revoked'",
        "'Unknown Protocol Operation'",
        "'Words that no release has said yet'",
        "without quotes",
        "",
    ],
)
async def test_whatever_the_server_says_the_link_comes_back_whole(
    nats: Harbour, words: str
) -> None:
    server, _ = await nats.fleet()
    async with Proxy(nats.port) as proxy:
        node = await nats.join("node", "n9", url=proxy.url)
        back, orders = Connections(node), Inbox()
        await node.subscribe("cmd.n9.>", orders)
        stores = [node.store("out.n9.r.1", b"x" * 1000, message_id=str(n)) for n in range(300)]
        proxy.say(f"-ERR {words}\r\n".encode())
        await back.reach(1)
        results = await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
        assert all(isinstance(result, Stored) for result in results)
        assert len(await replayed(server, "out.n9.>")) == 300
        await server.publish("cmd.n9.start", b"")
        await orders.count(1)
        await node.stop()


async def test_words_that_are_no_protocol_at_all_only_cost_the_connection(nats: Harbour) -> None:
    async with Proxy(nats.port) as proxy:
        node = await nats.join("node", "n9", url=proxy.url)
        for turn, words in enumerate([b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {\r\n"]):
            back = Connections(node)
            proxy.say(words)
            await back.reach(1)
            assert proxy.accepted == turn + 2
        await node.stop()


async def test_a_black_hole_is_noticed_mended_and_loses_and_doubles_nothing(
    nats: Harbour,
) -> None:
    server, _ = await nats.fleet()
    beats, orders = Inbox(), Inbox()
    await server.subscribe("hb.n9", beats)
    async with Proxy(nats.port) as proxy:
        node = nats.make("node", "n9", url=proxy.url, options=HASTY)
        await until_up(node)
        back = Connections(node)
        await node.subscribe("cmd.n9.>", orders)
        for turn in range(2):
            proxy.stop()
            began = time.monotonic()
            # More than the sockets take: bytes stay unsent, so no PING would ever leave.
            stores = [
                node.store("out.n9.r.1", b"x" * (1 << 20), message_id=f"{turn} {number}")
                for number in range(16)
            ]
            nats.errors.clear()
            await nats.error("link to the fabric lost")
            assert time.monotonic() - began < NOTICED_S + 2
            await nats.error("cannot be reached")  # new connections are in the hole as well
            assert not node.connected
            proxy.go()
            await back.reach(turn + 1)
            results = await asyncio.wait_for(asyncio.gather(*stores), DEADLINE_S)
            assert all(isinstance(result, Stored) for result in results)
            assert len(await replayed(server, "out.n9.>")) == 16 * (turn + 1)
            await node.publish("hb.n9", b"here")
            await beats.count(turn + 1)
            await server.publish("cmd.n9.start", b"")
            await orders.count(turn + 1)
        await node.stop()


async def test_publishes_in_a_black_hole_wait_then_raise_and_pending_bytes_are_bounded(
    nats: Harbour,
) -> None:
    async with Proxy(nats.port) as proxy:
        node = await nats.join("node", "n9", url=proxy.url)
        proxy.stop()
        client = node._link.client
        assert client is not None
        most = 0

        async def fill() -> None:
            nonlocal most
            while True:
                await node.publish("hb.n9", b"x" * (64 << 10))
                most = max(most, client.unsent)

        with pytest.raises(Unavailable) as failure:
            await asyncio.wait_for(fill(), DEADLINE_S)
        assert failure.value.code == "disconnected"
        # nats-py's own, and as much again handed to the transport.
        assert ROOM // 2 < most < 4 * ROOM
        await node.stop()


async def test_a_link_outlives_a_connection_that_was_closed_with_bytes_to_write(
    nats: Harbour,
) -> None:
    async with Proxy(nats.port) as proxy:
        node = await nats.join("node", "n9", url=proxy.url)
        back = Connections(node)
        client = node._link.client
        assert isinstance(client, Client)
        proxy.stop()
        stores = [node.store("out.n9.r.1", b"x" * (1 << 20)) for _ in range(14)]
        for _ in range(20):  # turns for the flusher
            await asyncio.sleep(0)
        assert client._transport is not None
        transport = client._transport._io_writer.transport  # type: ignore[attr-defined]
        assert transport.get_write_buffer_size() > 0
        transport.close()
        proxy.go()
        await back.reach(1)
        for store in stores:
            store.cancel()
        await node.stop()


async def test_an_expired_login_is_cut_told_and_tried_until_it_is_renewed(nats: Harbour) -> None:
    _, _ = await nats.fleet()
    key = nats.identity("n9").public_key
    renewed = False
    dials = Inbox()
    short = nats.authority.mint_node("n9", key, now=int(time.time()), ttl_s=2)

    async def source() -> str:
        dials(None)
        if not renewed:
            return short
        return nats.authority.mint_node("n9", key, now=int(time.time()), ttl_s=3600)

    node = await nats.join("node", "n9", jwt_source=source)
    back = Connections(node)
    await nats.error("link to the fabric lost: the fabric said 'user authentication expired'")
    stored = node.store("out.n9.r.1", b"kept meanwhile")
    said = await nats.error("does not admit 'n9'")
    assert "expired or revoked. Enrol it again." in said
    await dials.count(len(dials.messages) + 20)  # it goes on trying
    # It says so once, and again only when something else came between: within the very second of
    # the end nats-server admits and cuts.
    assert nats.errors.count(said) < 10
    assert back.count == 0
    renewed = True
    await back.reach(1)
    assert isinstance(await asyncio.wait_for(stored, DEADLINE_S), Stored)
    await node.publish("hb.n9", b"")


async def test_a_link_outlives_errors_of_its_login_its_signer_and_its_callbacks(
    nats: Harbour,
) -> None:
    wrong: list[Exception] = []
    key = nats.identity("n9").public_key

    async def source() -> str:
        if wrong:
            raise wrong.pop()
        return nats.authority.mint_node("n9", key, now=int(time.time()), ttl_s=3600)

    def callback() -> None:
        raise KeyError("no such screen")

    node = await nats.join("node", "n9", jwt_source=source)
    node.on_connect(callback)
    back = Connections(node)
    wrong += [FileNotFoundError("keys are gone"), KeyError("credentials")]
    node.reconnect()
    await back.reach(1)
    assert wrong == []
    assert "KeyError" in await nats.error("a callback of the link raised")
    await nats.error("'credentials'")
    await nats.error("keys are gone")
    await node.publish("hb.n9", b"")


async def test_a_refused_subject_is_denied_and_never_a_timeout(nats: Harbour) -> None:
    server, node = await nats.fleet()
    with pytest.raises(Denied):
        await node.subscribe("cmd.n2.>", Inbox())
    with pytest.raises(Denied):
        await node.request("cmd.n2.start", b"", timeout_s=DEADLINE_S)
    refusal = await asyncio.wait_for(node.store("out.n2.r.1", b""), DEADLINE_S)
    assert isinstance(refusal, Refused)
    assert refusal.code == 403
    await node.publish("hb.n2", b"")  # only now is it known
    await nats.error('permissions violation for publish to "hb.n2"')
    with pytest.raises(Denied, match=r"no right to hb\.n2"):
        await node.publish("hb.n2", b"")
    inbox = Inbox()
    await server.subscribe("hb.n1", inbox)
    await node.publish("hb.n1", b"still well")
    await inbox.count(1)


async def test_a_pull_that_was_lost_is_made_again(nats: Harbour) -> None:
    server, node = await nats.fleet()
    deliveries = server.consume("EV", "ingest", batch=10)
    await node.store("ev.n1.a", b"1", message_id="1")
    (first,) = await take(deliveries, 1)
    first.ack()
    waiting = asyncio.ensure_future(take(deliveries, 1))
    await server.request("$JS.API.CONSUMER.DELETE.EV.ingest", b"", timeout_s=5)
    await nats.error("a pull from")
    await server.ensure_streams(Limits())
    await node.store("ev.n1.a", b"2", message_id="2")
    found = await waiting
    while found[-1].data != b"2":  # an ack that came after the end of the consumer: offered again
        assert found[-1].data == b"1"
        found = await take(deliveries, 1)
    await deliveries.aclose()  # type: ignore[attr-defined]


def test_the_buffer_is_large() -> None:
    assert nats.aio.client.DEFAULT_BUFFER_SIZE == 256 << 10


async def test_dials_are_spread_by_chance(nats: Harbour) -> None:
    patient = msgspec.structs.replace(QUICK, backoff_first_s=3600.0, backoff_cap_s=3600.0)
    early = await nats.join("node", "n1", options=patient, random=lambda: 0.0)
    late = await nats.join("node", "n2", options=patient, random=lambda: 0.99)
    back = Connections(early)
    nats.kill()
    await nats.up()
    await back.reach(1)
    assert not late.connected
    again = Connections(late)
    late.reconnect()
    await again.reach(1)


async def test_a_subscription_that_was_cut_off_while_it_began_hears_nothing(
    nats: Harbour,
) -> None:
    node = nats.make("node", "n1")
    await node.start()
    heard: list[str] = []
    for turns in range(3):
        joining = asyncio.create_task(
            node.subscribe("cmd.n1.x", lambda message: heard.append(message.subject))
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait([joining])
        assert joining.cancelled()
    inbox = Inbox()
    await node.subscribe("cmd.n1.>", inbox)
    server = nats.make("server", "s1")
    await server.start()
    await server.publish("cmd.n1.x", b"")
    await server.publish("cmd.n1.last", b"")
    await inbox.count(2)
    assert heard == []


async def test_a_stop_that_is_cut_short_leaves_no_connection(nats: Harbour) -> None:
    """Whoever is told to end while it stops its link does not leave the link behind."""
    link = await nats.join("node", "n1")
    stopping = asyncio.ensure_future(link.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert not link.connected
    assert not [task for task in asyncio.all_tasks() if "Client." in repr(task.get_coro())]
