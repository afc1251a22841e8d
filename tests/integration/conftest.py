"""Fixtures of the integration tests: a fabric, and on it a server with a node driven by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.control.main import Server
from quarterdeck.telemetry import NodeSession
from tests.contracts.fabric_server import Harbour, harbour
from tests.integration.server_host import Ears, HandNode, serving


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    """A nats-server of its own, with an authority and whoever joins."""
    async with harbour(tmp_path) as running:
        yield running


@pytest.fixture
async def fleet(place: Harbour) -> AsyncIterator[tuple[Server, Ears, HandNode]]:
    """A server, what it tells, and the node `hand`."""
    async with serving(place) as (server, ears):
        node = HandNode(place, server, "hand")
        await node.join()
        await ears.until(NodeSession)
        try:
            yield server, ears, node
        finally:
            await node.fabric.stop()
