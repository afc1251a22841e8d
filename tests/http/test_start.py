"""HTTP answers from the first moment, and says what is missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.client.http import Connection
from quarterdeck.control.ready import PATIENCE_S
from quarterdeck.errors import Unavailable
from quarterdeck.telemetry import FabricTrouble, NodeSession
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import API, answering, listening
from tests.integration.server_host import HandNode, order

NOWHERE = "nats://127.0.0.1:1"
QUICK_S = 1.0


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


async def test_without_a_fabric_the_server_answers_what_the_record_knows(tmp_path: Path) -> None:
    async with listening(tmp_path, NOWHERE) as (host, _):
        assert (await host.ask("/healthz", token="")).status == 200
        await host.ears.until(FabricTrouble)
        ready = await host.ask("/readyz", token="")
        assert ready.status == 503
        assert "waits for the fabric" in ready.json["problem"]
        assert (await host.ask("/v1/runs")).json == {"items": [], "next": None}
        assert (await host.ask("/v1/nodes")).status == 200


async def test_what_needs_the_fabric_is_told_that_the_server_starts(tmp_path: Path) -> None:
    async with listening(tmp_path, NOWHERE) as (host, _):
        await host.ears.until(FabricTrouble)
        began = time.monotonic()
        answer = await host.ask("/v1/runs/last/events")
        assert (answer.status, answer.json["code"]) == (503, "starting")
        assert "the fabric" in answer.json["detail"]
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.headers["retry-after"]
        assert time.monotonic() - began < PATIENCE_S + QUICK_S
        began = time.monotonic()
        assert (await host.ask("/v1/runs/last/output")).status == 503
        assert time.monotonic() - began < QUICK_S  # patience counts from the start of the process


async def test_a_call_during_a_start_waits_for_it(place: Harbour) -> None:
    async with listening(place.root, place.server.url) as (host, _):
        assert (await host.ask("/v1/runs/last/events")).json["code"] == "run_not_found"


async def test_a_client_asks_a_starting_server_again_for_a_bounded_time(tmp_path: Path) -> None:
    async with listening(tmp_path, NOWHERE) as (host, _):
        impatient = Connection(f"http://127.0.0.1:{host.port}", API, patience_s=0)
        with pytest.raises(Unavailable, match="starting") as caught:
            await asyncio.to_thread(list, impatient.stream("/v1/runs/last/output"))
        assert caught.value.code == "starting"


async def test_when_the_link_is_lost_reads_go_on_and_readyz_says_it(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        node = HandNode(place, host.server, "hand")
        await node.join()
        await host.ears.until(NodeSession)
        run = await order(host.server, "hand")
        await node.orders.get()
        await node.fabric.stop()
        assert (await host.ask("/readyz", token="")).status == 200
        place.kill()
        await host.ears.until(FabricTrouble)
        ready = await host.ask("/readyz", token="")
        assert (ready.status, ready.json["status"]) == (503, "unready")
        assert "link to the fabric is down" in ready.json["problem"]
        assert (await host.ask(f"/v1/runs/{run}")).json["state"] == "pending"
        began = time.monotonic()
        output = await host.ask(f"/v1/runs/{run}/output")
        assert (output.status, output.json["code"]) == (503, "disconnected")
        events = await host.ask(f"/v1/runs/{run}/events?follow=false")
        assert b'"code":"disconnected"' in events.body
        assert time.monotonic() - began < QUICK_S
