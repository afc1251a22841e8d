"""An order that the fabric does not take is turned down, and holds nothing else up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from quarterdeck.core.states import Outcome
from quarterdeck.fabric.nats.client import Client
from quarterdeck.store import run as run_store
from quarterdeck.telemetry import NodeSession, RunEnded
from tests.contracts.fabric_server import harbour
from tests.integration.server_host import HandNode, accepting, order, serving

pytestmark = pytest.mark.anyio


async def test_a_start_too_large_for_the_fabric_fails_though_it_was_offered_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harbour(tmp_path) as place, serving(place) as (server, ears):
        node = HandNode(place, server, "hand")
        node.answer = accepting
        await node.enrol()
        large = await order(server, "hand", "x" * 20_000)
        small = await order(server, "hand")
        await server.database.write(partial(run_store.offer, ids=[f"{large}-0-1"]))
        monkeypatch.setattr(Client, "max_payload", 10_000)
        await node.join()
        await ears.until(NodeSession)
        ended = await ears.until(RunEnded)
        assert (ended.run, ended.outcome) == (large, Outcome.FAILED.value)
        orders = await node.orders.get()
        assert [item.attempt for item in orders.items] == [f"{small}-0-1"]
        await node.fabric.stop()
