"""A fabric that comes back without its streams gets them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import quarterdeck.control.streams as module
from quarterdeck.control.main import Server
from quarterdeck.errors import Unavailable
from quarterdeck.fabric.base import Limits
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.telemetry import FabricConnected, FactRejected, NodeSession
from quarterdeck.wire import subjects
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import DEADLINE_S, Ears, HandNode, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fleet(place: Harbour) -> AsyncIterator[tuple[Server, Ears, HandNode]]:
    async with serving(place) as (server, ears):
        node = HandNode(place, server, "a1")
        await node.join()
        await ears.until(NodeSession)
        yield server, ears, node
        await node.fabric.stop()


def reconnect(server: Server) -> None:
    assert isinstance(server.fabric, NatsFabric)
    server.fabric.reconnect()


async def test_facts_are_taken_again_after_the_fabric_came_back_without_its_streams(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    await server.fabric.request("$JS.API.STREAM.DELETE.EV", b"", timeout_s=DEADLINE_S)
    reconnect(server)
    await ears.until(FabricConnected)
    async with asyncio.timeout(DEADLINE_S):
        await node.fabric.store(subjects.snapshots(node.id), b"arrived")
    await ears.until(FactRejected)
    assert server.ready() == ""


async def test_streams_that_vanish_behind_a_standing_link_are_made_again(
    place: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.2)
    async with serving(place) as (server, ears):
        await server.fabric.request("$JS.API.STREAM.DELETE.EV", b"", timeout_s=DEADLINE_S)
        node = HandNode(place, server, "a1")
        await node.join()
        async with asyncio.timeout(DEADLINE_S):
            await node.fabric.store(subjects.snapshots(node.id), b"arrived")
        await ears.until(FactRejected)
        await node.fabric.stop()


async def test_a_server_without_its_streams_is_not_ready_and_says_why(
    fleet: tuple[Server, Ears, HandNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _, _ = fleet
    ensure = server.fabric.ensure_streams
    mended, refused, looked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def ensured(limits: Limits) -> None:
        if not mended.is_set():
            refused.set()
            raise Unavailable("stream_unavailable", "JetStream could not set up EV: no room.")
        await ensure(limits)
        looked.set()

    monkeypatch.setattr(server.fabric, "ensure_streams", ensured)
    reconnect(server)
    async with asyncio.timeout(DEADLINE_S):
        await refused.wait()
    assert "could not set up EV" in server.ready()
    mended.set()
    async with asyncio.timeout(DEADLINE_S):
        await looked.wait()
    assert server.ready() == ""
