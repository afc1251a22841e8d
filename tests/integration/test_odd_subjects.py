"""A node that says odd things where its rights let it: nobody else loses a fact or a link by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from quarterdeck.agent.outbox import Outbox
from quarterdeck.control.main import Server
from quarterdeck.control.watch import Cursor, OutputSeen, RunEndSeen
from quarterdeck.telemetry import FabricTrouble, FactRejected, LoopFailed, NodeSession, RunEnded
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from quarterdeck.wire.run import StreamEndMessage
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import (
    DEADLINE_S,
    Ears,
    HandNode,
    accepting,
    order,
    serving,
    snapshot,
)

Pair = tuple[Server, Ears, HandNode, HandNode]
MANY = 20


@pytest.fixture
async def pair(place: Harbour) -> AsyncIterator[Pair]:
    """A server, a node that misbehaves, and one that does not."""
    async with serving(place) as (server, ears):
        nodes = [HandNode(place, server, name) for name in ("bad", "good")]
        for number, node in enumerate(nodes):
            await node.join()
            await ears.until(NodeSession, number + 1)
        try:
            yield server, ears, nodes[0], nodes[1]
        finally:
            for node in nodes:
                await node.fabric.stop()


def send(node: HandNode, subject: bytes, data: bytes = b"x", reply: bytes = b"") -> None:
    """Past the checks of our own client, which knows only good subjects."""
    client = node.fabric._link.client
    assert client is not None
    client.post("_", b"")
    pending = client._pending  # type: ignore[attr-defined]
    del pending[-3:]
    pending += [b"PUB %s %s %d\r\n" % (subject, reply, len(data)), data, b"\r\n"]


async def test_facts_on_odd_subjects_are_rejected_and_those_of_others_taken(pair: Pair) -> None:
    server, ears, bad, good = pair
    good.answer = accepting
    run = await order(server, "good")
    await good.orders.get()
    for number in range(MANY):
        send(bad, b"ev.%s.\xff\xfe" % bad.id.encode(), b"%d" % number)
    send(bad, b"ev.%s.attempt.more" % bad.id.encode())
    await good.tell(snapshot(f"{run}-0-1", 3, "ended", exit_code=0, cached=True))
    assert (await ears.until(RunEnded)).run == run
    await ears.until(FactRejected, MANY + 1)
    assert not ears.all(LoopFailed)


async def test_output_on_odd_subjects_of_a_watched_run_harms_neither_link_nor_watcher(
    pair: Pair,
) -> None:
    server, ears, bad, good = pair
    bad.answer = good.answer = accepting
    run = await order(server, "all")
    for node in (bad, good):
        await node.orders.get()
    attempts = {a.node: a.id for a in (await server.runs.detail(run))[2]}
    send(bad, b"out.%s.%s.\xff" % (bad.id.encode(), run.encode()))
    chunk = encode_chunk(Chunk("stdout", 0, 1, b"hello\n"))
    await good.fabric.store(subjects.output(good.id, run, attempts[good.id]), chunk)

    async def seen() -> list[object]:
        return [seen async for seen in server.watching.watch(run, Cursor())]

    watching = asyncio.ensure_future(seen())
    for number in range(MANY):
        send(bad, b"out.%s.%s.\xff%d" % (bad.id.encode(), run.encode(), number))
    end = StreamEndMessage(bytes=6, sha256="")
    for node, stdout in ((good, end), (bad, StreamEndMessage())):
        ended = snapshot(attempts[node.id], 3, "ended", exit_code=0, cached=True, stdout=stdout)
        await node.tell(ended)
    async with asyncio.timeout(DEADLINE_S):
        found = await watching
    assert isinstance(found[-1], RunEndSeen)
    assert [s.chunk.data for s in found if isinstance(s, OutputSeen)] == [b"hello\n"]
    assert not ears.all(FabricTrouble)


async def test_a_beat_with_an_odd_reply_is_a_beat_without_one(pair: Pair) -> None:
    _, ears, bad, good = pair
    for _ in range(MANY):
        reply = f"_INBOX_{bad.id}.x\u00a0y".encode()
        send(bad, subjects.beat(bad.id).encode(), bad.beat_bytes(), reply)
    good.session = "session-2"
    await good.beat()
    await ears.until(NodeSession, 3)
    assert not ears.all(LoopFailed)


async def test_no_node_can_guess_where_a_server_waits_for_the_answer_of_another(
    pair: Pair,
) -> None:
    server, _, bad, good = pair
    replies: list[str] = []
    for node in (bad, good):
        await node.fabric.subscribe(subjects.orders(node.id), lambda m: replies.append(m.reply))
    for name in ("bad", "good", "bad"):
        await order(server, name)
    async with asyncio.timeout(DEADLINE_S):
        for node in (bad, good, bad):
            await node.orders.get()
    tokens = [reply.rsplit(".", 1)[1] for reply in replies]
    assert len(set(tokens)) == 3 and all(len(bytes.fromhex(token)) == 8 for token in tokens)


async def test_no_node_can_take_the_ids_under_which_another_reports(pair: Pair) -> None:
    """The fabric deduplicates ids over all nodes of a stream."""
    server, ears, bad, good = pair
    good.answer = accepting
    run = await order(server, "good")
    await good.orders.get()
    attempt = f"{run}-0-1"
    for guess in (f"{attempt}:3:1", f"session-1:{attempt}:3:1"):
        await bad.fabric.store(subjects.snapshots(bad.id), b"junk", message_id=guess)
    outbox = Outbox(
        node=good.id,
        session="0123456789abcdef",
        fabric=good.fabric,
        services=server.services,
        telemetry=server.telemetry,
    )
    server.services.loop("facts of good", outbox.send_facts)
    outbox.put(snapshot(attempt, 3, "ended", exit_code=0, cached=True))
    assert (await ears.until(RunEnded)).run == run
