"""Watchers of a run on a real fabric: those that leave early, and nodes whose output is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from quarterdeck.control.main import Server
from quarterdeck.control.run import NewRun
from quarterdeck.control.watch import Cursor, OutputSeen, PresentSeen, RunEndSeen, TaskSeen
from quarterdeck.core.model import Order
from quarterdeck.core.states import TaskState
from quarterdeck.core.stream import LIMIT_SLACK
from quarterdeck.telemetry import NodeSession
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from quarterdeck.wire.run import AnswerItem, Orders, OutputBytes, ReadOutput, StreamEndMessage
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

Fleet = tuple[Server, Ears, HandNode, HandNode]


@pytest.fixture
async def fleet(place: Harbour) -> AsyncIterator[Fleet]:
    async with serving(place) as (server, ears):
        good, bad = (HandNode(place, server, name) for name in ("good", "bad"))
        good.answer = bad.answer = accepting
        try:
            for count, node in enumerate((good, bad), 1):
                await node.join()
                await ears.until(NodeSession, count)
            yield server, ears, good, bad
        finally:
            await good.fabric.stop()
            await bad.fabric.stop()


async def write(node: HandNode, run: str, attempt: str, offset: int, data: bytes) -> None:
    chunk = encode_chunk(Chunk("stdout", offset, 1, data))
    await node.fabric.store(subjects.output(node.id, run, attempt), chunk)


async def test_who_leaves_while_the_watching_begins_leaves_nothing_behind(fleet: Fleet) -> None:
    server, _, good, _ = fleet
    run = await order(server, "good")
    await good.orders.get()

    async def watch() -> None:
        async for _ in server.watching.watch(run, Cursor()):
            pass

    for turns in range(20):  # cut off at each step of the way in
        watching = asyncio.create_task(watch())
        for _ in range(turns):
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    heard = asyncio.Event()
    ears = await server.fabric.subscribe(subjects.run_output(run), lambda _: heard.set())
    await write(good, run, f"{run}-0-1", 0, b"y" * 100_000)
    async with asyncio.timeout(DEADLINE_S):
        await heard.wait()
    await server.fabric.request("$JS.API.STREAM.INFO.EV", b"", timeout_s=DEADLINE_S)
    assert server.watching.crowd.waiting_bytes == 0
    await ears.close()


def emptied(orders: Orders) -> tuple[AnswerItem, ...]:
    """A node whose output files lost everything."""
    return tuple(
        OutputBytes(
            attempt=i.attempt, stream=i.stream, offset=i.offset, data=b"", size=0, final=True
        )
        if isinstance(i, ReadOutput)
        else snapshot(i.attempt, 1, "accepted")
        for i in orders.items
    )


async def test_lost_output_of_one_node_ends_nobodys_view_of_the_run(fleet: Fleet) -> None:
    server, _, good, bad = fleet
    bad.answer = emptied
    run = await order(server, "all")
    _, _, attempts = await server.runs.detail(run)
    of = {attempt.node: attempt.id for attempt in attempts}
    for node in (good, bad):
        await node.orders.get()
    await write(bad, run, of[bad.id], 100, b"after what is lost")
    now = [seen async for seen in server.watching.watch(run, Cursor(), follow=False)]
    assert isinstance(now[-1], PresentSeen)
    await write(good, run, of[good.id], 0, b"hello")
    for node, size in ((bad, 118), (good, 5)):
        end = snapshot(of[node.id], 3, "ended", exit_code=0, ended_at=2.0, cached=True)
        stdout = StreamEndMessage(bytes=size, sha256="0" * 64)
        await node.tell(msgspec.structs.replace(end, stdout=stdout))
    async with asyncio.timeout(DEADLINE_S):
        every = [seen async for seen in server.watching.watch(run, Cursor())]
    shown = [(seen.attempt, seen.chunk.data) for seen in every if isinstance(seen, OutputSeen)]
    assert shown == [(of[good.id], b"hello")]
    ended = [seen.task for seen in every if isinstance(seen, TaskSeen)]
    assert {task.node for task in ended if task.state is TaskState.ENDED} == {good.id, bad.id}
    assert isinstance(every[-1], RunEndSeen)


async def test_a_node_that_writes_without_end_feeds_its_watchers_no_more_than_the_order_allows(
    fleet: Fleet,
) -> None:
    server, _, good, _ = fleet
    limit = 1000
    made = await server.runs.create(
        NewRun(target="good", order=Order(argv=("true",), max_output=limit), created_by="test")
    )
    run, attempt = made.id, f"{made.id}-0-1"
    await good.orders.get()
    most = limit + LIMIT_SLACK
    size = 1 << 18

    def endless(orders: Orders) -> tuple[AnswerItem, ...]:
        return tuple(
            OutputBytes(
                attempt=item.attempt,
                stream=item.stream,
                offset=item.offset,
                data=b"x" * min(item.length, size),
                size=1 << 60,
                final=False,
            )
            for item in orders.items
            if isinstance(item, ReadOutput)
        )

    good.answer = endless
    for offset in range(0, 2 * most, size):
        await write(good, run, attempt, offset, b"x" * size)
    read = 0
    async with asyncio.timeout(DEADLINE_S):
        async for seen in server.watching.watch(run, Cursor(), follow=False):
            if isinstance(seen, OutputSeen) and seen.chunk.stream == "stdout":
                read += len(seen.chunk.data)
    assert read == most
    (found,) = (await server.runs.detail(run))[2]
    assert await server.output.size(found, "stdout") == most
