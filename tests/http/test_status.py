"""What the server says of itself: metrics, probes, and what everything does now."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quarterdeck.control.metrics import loop_label
from quarterdeck.settings import ServerSettings
from quarterdeck.telemetry import FabricTrouble, NodeSession, RunEnded
from quarterdeck.wire import subjects
from quarterdeck.wire.run import AttemptSnapshot
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import API, HttpHost, answering
from tests.integration.server_host import JOIN, HandNode, order

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "operating.md"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


async def one_run(place: Harbour, host: HttpHost, name: str = "hand") -> HandNode:
    """A node that joins, does one run, and is sent on by its archived log."""
    node = HandNode(place, host.server, name)
    await node.join()
    await host.ears.until(NodeSession)
    node.answer = lambda orders: tuple(
        AttemptSnapshot(attempt=item.attempt, revision=1, phase="accepted", accepted_at=1.0)
        for item in orders.items
    )
    run = await order(host.server, name)
    await node.orders.get()
    end = AttemptSnapshot(attempt=f"{run}-0-1", revision=3, phase="ended", accepted_at=1.0)
    await node.tell(msgspec.structs.replace(end, exit_code=0, ended_at=2.0, cached=True))
    await host.ears.until(RunEnded)
    return node


async def samples(host: HttpHost) -> dict[tuple[str, str], float]:
    """(name, labels as JSON) to value."""
    answer = await host.ask("/metrics", token="")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_metrics_count_what_happened(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        node = await one_run(place, host)
        await node.fabric.store(subjects.snapshots(node.id), b"\xff", message_id="bad")
        await host.ask("/v1/runs/last")
        await host.ask("/v1/nope/06gz")
        found = await samples(host)
        await node.fabric.stop()
    assert found["qd_runs_created_total", "{}"] == 1
    assert found["qd_runs_ended_total", '{"outcome": "succeeded"}'] == 1
    assert found["qd_attempts_total", '{"state": "succeeded"}'] == 1
    assert found["qd_orders_total", '{"answer": "yes"}'] >= 1
    assert found["qd_nodes", '{"state": "ready"}'] == 1
    assert found["qd_fabric_up", "{}"] == found["qd_database_up", "{}"] == 1
    assert found["qd_fabric_stream_max_bytes", '{"stream": "EV"}'] == 1 << 30
    assert found["qd_database_seconds_count", '{"kind": "write"}'] > 0
    route = '{"method": "GET", "route": "/v1/runs/{run_id}", "status": "200"}'
    assert found["qd_http_requests_total", route] == 1
    assert found["qd_http_requests_total", '{"method": "GET", "route": "none", "status": "404"}']
    assert found["qd_process_resident_memory_bytes", "{}"] > 0


async def test_every_metric_that_the_guide_alerts_on_is_there(place: Harbour) -> None:
    named = GUIDE.read_text().partition("What to alert on:")[2].partition("No label holds")[0]
    metrics = set(re.findall(r"\bqd_\w+", named))
    states = re.findall(r'\{state="(\w+)"\}', named)
    assert len(metrics) > 8 and states
    async with answering(place.root, place.server.url) as host:
        text = (await host.ask("/metrics", token="")).body.decode()
        found = await samples(host)
    assert metrics <= set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    for state in states:
        assert found["qd_nodes", json.dumps({"state": state})] == 0
    assert ("qd_database_seconds_count", '{"kind": "write"}') in found


async def test_below_min_free_mib_a_new_run_is_refused_with_a_sentence(place: Harbour) -> None:
    async with answering(place.root, place.server.url, min_free_mib=1 << 40) as host:
        body = {"target": "all", "argv": ["true"]}
        refused = await host.ask("/v1/runs", method="POST", body=body)
        assert refused.status == 503
        assert "MiB free" in refused.json["detail"] and str(1 << 40) in refused.json["detail"]
        assert (await host.ask("/v1/runs")).json["items"] == []


async def test_no_series_is_named_after_a_node_or_a_run(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        node = await one_run(place, host)
        run = (await host.ask("/v1/runs/last")).json["id"]
        text = (await host.ask("/metrics", token="")).body.decode()
        await node.fabric.stop()
    for word in (run, node.id, "hand", API, JOIN):
        assert word not in text
    assert loop_label("seal 06gznhkm02pnte9q-0-1") == "seal"
    assert loop_label("orders abcdefghijklmnop") == "orders"


@pytest.mark.parametrize(
    ("listen", "metrics", "status"),
    [
        ("127.0.0.1:1", "auto", 200),
        ("[::1]:1", "auto", 200),
        ("0.0.0.0:1", "auto", 401),
        ("127.0.0.1:1", "token", 401),
        ("0.0.0.0:1", "open", 200),
    ],
)
async def test_metrics_need_a_token_when_others_than_this_machine_may_ask(
    place: Harbour, listen: str, metrics: str, status: int
) -> None:
    async with answering(place.root, place.server.url, listen=listen, metrics=metrics) as host:
        assert (await host.ask("/metrics", token="")).status == status
        assert (await host.ask("/metrics")).status == 200


async def test_status_tells_what_everything_does_and_no_secret(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        node = await one_run(place, host)
        assert (await host.ask("/debug/status", token="")).status == 401
        answer = await host.ask("/debug/status")
        await node.fabric.stop()
    status = answer.json
    places = {task["name"]: task["at"] for task in status["tasks"]}
    assert re.fullmatch(r"control\.observe\.watch_beats:\d+", places["beats"])
    assert {"ingest", "dispatch", "seal", "due runs"} <= places.keys()
    assert status["fabric"]["problem"] == status["database"]["problem"] == status["problem"] == ""
    assert {stream["name"] for stream in status["fabric"]["streams"]} == {"EV", "OUT"}
    assert status["backlog"]["due_runs"] == 0
    held = {lease["duty"] for lease in status["leases"] if lease["mine"]}
    assert {"offers", "due", "purge"} <= held
    assert status["nodes"]["by_state"]["ready"] == 1
    for secret in (API, JOIN, API.rpartition("_")[2]):
        assert secret not in answer.body.decode()


async def test_status_answers_while_the_fabric_is_away(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        place.kill()
        await host.ears.until(FabricTrouble)
        status = (await host.ask("/debug/status")).json
        assert "fabric is down" in status["fabric"]["problem"]
        assert status["backlog"] is not None
        found = await samples(host)
        assert found["qd_fabric_up", "{}"] == 0


async def test_a_loop_that_failed_is_told_with_its_last_error(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:

        async def bad() -> None:
            raise ValueError("no such thing")

        for _ in range(2):
            host.server.services.spawn(bad(), "bad loop")
        status = (await host.ask("/debug/status")).json
        (trouble,) = [t for t in status["troubles"] if t["name"] == "bad loop"]
        assert trouble["error"] == "ValueError: no such thing" and trouble["times"] == 2
        assert (await samples(host))["qd_loop_failures_total", '{"loop": "bad"}'] == 2


def test_the_setting_for_metrics_takes_three_words() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"metrics": "perhaps"}, ServerSettings)
