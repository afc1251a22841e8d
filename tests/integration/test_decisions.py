"""What one server decides about a node is known to the others."""

from __future__ import annotations

import asyncio

import pytest

from quarterdeck.control import node as deciding
from quarterdeck.core.model import Node
from quarterdeck.telemetry import NodeSession
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import DEADLINE_S, HandNode, serving


async def test_a_decision_on_one_server_is_known_on_the_other_although_nobody_told_it(
    place: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "TICK_S", 0.05)
    async with serving(place, "one") as (one, ears):
        node = HandNode(place, one, "web1")
        await node.join()
        await ears.until(NodeSession)
        async with serving(place, "two") as (two, _):
            know, found = two.fleet.know, asyncio.Event()

            def noticed(read: Node, *, here: bool = True) -> None:
                know(read, here=here)
                if read.decision == 3:
                    found.set()

            monkeypatch.setattr(two.fleet, "know", noticed)
            monkeypatch.setattr(one.changes, "tell", lambda _topic: None)  # the message is lost
            monkeypatch.setattr(two.leases, "alone", lambda: False)
            await one.nodes.label("web1", put={"dc": "ams"}, join=["web"], by="test")
            await one.nodes.drain("web1", True, by="test")
            await one.nodes.rename("web1", "front", by="test")
            async with asyncio.timeout(DEADLINE_S):
                await found.wait()
            known = two.fleet.get(node.id)
            assert (known.name, known.draining) == ("front", True)
            assert known.server_labels == {"dc": "ams", "group": "web"}
        await node.fabric.stop()


async def test_two_servers_that_label_a_node_at_once_lose_neither_label(place: Harbour) -> None:
    async with serving(place, "one") as (one, ears):
        node = HandNode(place, one, "web1")
        await node.join()
        await ears.until(NodeSession)
        async with serving(place, "two") as (two, _):
            await asyncio.gather(
                *(
                    server.nodes.label("web1", put={f"k{at}-{number}": "x"}, by="test")
                    for number in range(8)
                    for at, server in enumerate((one, two))
                )
            )
            last = await one.nodes.label("web1", put={"end": "x"}, by="test")
            assert len(last.server_labels) == 17
        await node.fabric.stop()
