"""Watchers of a run on a real fabric: those that leave early, and nodes whose output is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.control.main import Server
from quarterdeck.control.watch import Cursor
from quarterdeck.telemetry import NodeSession
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from tests.contracts.fabric_server import Harbour, harbour
from tests.integration.server_host import DEADLINE_S, Ears, HandNode, order, serving
from tests.integration.test_server import accepting

Fleet = tuple[Server, Ears, HandNode, HandNode]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


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
