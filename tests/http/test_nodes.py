"""What people decide about nodes over HTTP: it shows at once, and only an API token may."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.core.model import Facts
from quarterdeck.core.place import slots_of
from quarterdeck.fabric.identity import Identity
from quarterdeck.telemetry import NodeDecided, NodeSession
from quarterdeck.wire import subjects
from quarterdeck.wire.enrol import signed_part
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import HttpHost, answering
from tests.integration.server_host import JOIN, HandNode, accepting

ORDERS = (
    ("POST", "/v1/nodes/web1/labels", {"put": {"dc": "ams"}}),
    ("POST", "/v1/nodes/web1/rename", {"name": "other"}),
    ("POST", "/v1/nodes/web1/drain", None),
    ("POST", "/v1/nodes/web1/undrain", None),
    ("POST", "/v1/nodes/web1/approve", None),
    ("DELETE", "/v1/nodes/web1", None),
    ("GET", "/v1/nodes/web1", None),
    ("GET", "/v1/nodes?target=all", None),
    ("POST", "/v1/runs/preview", {"target": "all", "argv": ["true"]}),
)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


@pytest.fixture
async def host(place: Harbour) -> AsyncIterator[HttpHost]:
    async with answering(place.root, place.server.url) as found:
        yield found


@pytest.fixture
async def web1(place: Harbour, host: HttpHost) -> AsyncIterator[HandNode]:
    """A node with labels of its own."""
    node = HandNode(place, host.server, "web1")
    await node.join()
    own = {"dc": "fra", "group": "web", "env": "prod"}
    await node.fabric.publish(subjects.beat(node.id), node.beat_bytes(labels=own, session="s2"))
    await host.ears.until(NodeSession, 2)
    try:
        yield node
    finally:
        await node.fabric.stop()


async def done(host: HttpHost, path: str, body: Any = None, *, method: str = "POST") -> Any:
    answer = await host.ask(path, method=method, body=body)
    assert answer.status == 200, answer
    return answer.json


async def refused(host: HttpHost, path: str, body: Any = None, **how: Any) -> tuple[int, Any]:
    answer = await host.ask(path, method=how.pop("method", "POST"), body=body, **how)
    assert answer.status >= 400, answer
    return answer.status, answer.json


async def test_orders_about_nodes_need_an_api_token(host: HttpHost, web1: HandNode) -> None:
    before = await done(host, "/v1/nodes/web1", method="GET")
    for method, path, body in ORDERS:
        assert (await refused(host, path, body, method=method, token=JOIN))[0] == 403
        assert (await refused(host, path, body, method=method, token=""))[0] == 401
    after = await done(host, "/v1/nodes/web1", method="GET")
    assert after["labels"] == before["labels"] and not after["draining"]


async def test_labels_of_the_server_show_at_once_beside_those_of_the_agent(
    host: HttpHost, web1: HandNode
) -> None:
    change = {"put": {"dc": "ams", "rack": "1"}, "join": ["edge", "web"]}
    found = await done(host, "/v1/nodes/web1/labels", change)
    assert found["labels"] == {"dc": "ams", "env": "prod", "rack": "1", "group": "web,edge"}
    assert found["own_labels"] == {"dc": "fra", "env": "prod", "group": "web"}
    for target in ("label:dc=ams", "group:edge", "group:web%20and%20label:rack=1"):
        (hit,) = (await done(host, f"/v1/nodes?target={target}", method="GET"))["items"]
        assert hit["node"] == "web1"
    change = {"drop": ["dc"], "leave": ["edge"]}
    found = await done(host, f"/v1/nodes/{web1.id[:6]}/labels", change)
    assert found["labels"] == {"dc": "fra", "env": "prod", "rack": "1", "group": "web"}
    for own in ({"drop": ["env"]}, {"leave": ["web"]}):
        status, problem = await refused(host, "/v1/nodes/web1/labels", own)
        assert (status, problem["code"]) == (409, "own_label")
    for bad in ({"put": {"a b": "x"}}, {"put": {"k": "a\nb"}}, {"put": {"k": ""}}, {"more": 1}):
        assert (await refused(host, "/v1/nodes/web1/labels", bad))[0] == 400


async def test_a_name_that_was_given_outlives_beats_and_can_be_taken_back(
    host: HttpHost, web1: HandNode
) -> None:
    found = await done(host, "/v1/nodes/web1/rename", {"name": "front"})
    assert (found["node"], found["own_name"]) == ("front", "web1")
    await web1.fabric.publish(subjects.beat(web1.id), web1.beat_bytes(session="s3"))
    await host.ears.until(NodeSession, 3)
    (hit,) = (await done(host, "/v1/nodes?target=front", method="GET"))["items"]
    assert hit["id"] == web1.id
    assert (await refused(host, "/v1/nodes/web1", method="GET"))[0] == 404
    for bad in ("all", "ready", "and", "a b", "x" * 256):
        assert (await refused(host, "/v1/nodes/front/rename", {"name": bad}))[0] == 400
    assert (await done(host, "/v1/nodes/front/rename", {"name": ""}))["node"] == "web1"


async def test_a_drain_is_stored_and_a_repeat_is_no_news(host: HttpHost, web1: HandNode) -> None:
    for _ in range(2):
        assert (await done(host, "/v1/nodes/web1/drain"))["draining"] is True
    (hit,) = (await done(host, "/v1/nodes?target=draining", method="GET"))["items"]
    assert hit["node"] == "web1"
    assert (await done(host, "/v1/nodes/web1/undrain"))["draining"] is False
    decided = [event.what for event in host.ears.all(NodeDecided)]
    assert decided == ["drained", "undrained"]


async def test_a_preview_says_who_is_hit_and_who_waits_and_starts_nothing(
    place: Harbour, host: HttpHost, web1: HandNode
) -> None:
    away = HandNode(place, host.server, "away")
    await away.enrol()  # it never beats
    await done(host, "/v1/nodes/web1/drain")
    order = {"target": "all or web2", "argv": ["true"]}
    found = await done(host, "/v1/runs/preview", order)
    assert (found["total"], [node["node"] for node in found["nodes"]]) == (2, ["away", "web1"])
    first, second = found["nodes"]
    assert (first["state"], first["waits"]) == (
        "gone",
        "It was never seen: its task waits 60 s for it, then fails.",
    )
    assert second["labels"]["env"] == "prod"
    assert (
        second["waits"] == "It is draining: its task waits 60 s for `qd node undrain`, then fails."
    )
    assert found["notes"] == [
        {"position": 7, "text": "No node is named 'web2'. Did you mean web1?"}
    ]
    found = await done(host, "/v1/runs/preview", {**order, "offline_ttl_s": 0})
    assert found["nodes"][0]["waits"] == "It was never seen: its task fails at once."
    assert (await done(host, "/v1/runs", method="GET"))["items"] == []
    await done(host, "/v1/nodes/web1/undrain")
    found = await done(host, "/v1/runs/preview", {**order, "max_parallel": 1})
    assert (found["tasks"], found["first"], found["chosen"]) == (2, 1, None)
    found = await done(host, "/v1/runs/preview", {**order, "pick": {"count": 2}})
    assert (found["tasks"], found["chosen"]) == (2, 1)
    reasons = [(node["chosen"], node["why"]) for node in found["nodes"]]
    assert reasons == [(False, "not ready"), (True, "load 0.00 per CPU, best of 1 fit")]
    for wrong in ({"target": "all"}, {**order, "pick": {"count": 3}}, {**order, "canary": "1"}):
        status, problem = await refused(host, "/v1/runs/preview", wrong)
        assert (status, problem["code"] in ("order", "pick", "invalid_request")) == (400, True)


async def test_a_preview_says_that_a_task_would_wait_for_a_slot(
    host: HttpHost, web1: HandNode
) -> None:
    web1.answer = accepting
    for _ in range(slots_of(Facts())):
        answer = await host.ask("/v1/runs", method="POST", body={"target": "all", "argv": ["true"]})
        assert answer.status == 201
    (node,) = (await done(host, "/v1/runs/preview", {"target": "all", "argv": ["true"]}))["nodes"]
    assert node["waits"] == "Its slots (4) are in use: its task waits for one."


async def test_a_run_records_who_was_hit_and_how_they_were_then(
    place: Harbour, host: HttpHost, web1: HandNode
) -> None:
    away = HandNode(place, host.server, "away")
    await away.enrol()
    answer = await host.ask(
        "/v1/runs", method="POST", body={"target": "away or group:web", "argv": ["true"]}
    )
    run = await done(host, f"/v1/runs/{answer.json['id']}", method="GET")
    assert run["target"] == "away or group:web" and run["counts"]["total"] == 2
    assert [(task["node"], task["node_state"]) for task in run["tasks"]] == [
        ("away", "gone"),
        ("web1", "ready"),
    ]


async def test_errors_of_targets_carry_their_place(host: HttpHost, web1: HandNode) -> None:
    for target, position, code in (
        ("web1 & gruop:x", 7, "target"),
        ("web1 & wbe9", 7, "no_target"),
    ):
        body = {"target": target, "argv": ["true"]}
        status, problem = await refused(host, "/v1/runs", body)
        assert (status, problem["code"], problem["position"]) == (400, code, position)
    status, problem = await refused(host, "/v1/nodes?target=(web1", method="GET")
    assert (status, problem["position"]) == (400, 0)


async def enrol(host: HttpHost, key: Identity, name: str, token: str) -> tuple[int, Any]:
    part = signed_part(key.public_key, name, token)
    body = {
        "public_key": key.public_key,
        "name": name,
        "token": token,
        "signature": base64.b64encode(key.sign(part)).decode(),
    }
    answer = await host.ask("/v1/enrol", method="POST", body=body, token="")
    return answer.status, answer.json


async def test_a_node_that_waits_for_approval_gets_no_pass_and_is_hit_by_nothing(
    host: HttpHost, tmp_path: Path
) -> None:
    answer = await host.ask("/v1/tokens", method="POST", body={"kind": "join", "approve": "manual"})
    token, key = answer.json["token"], Identity.open(tmp_path / "new.nk")
    for text in (token, ""):  # once known, it needs no token to ask again
        status, problem = await enrol(host, key, "new", text)
        assert (status, problem["code"]) == (503, "awaits_approval")
        assert "qd node approve" in problem["detail"]
    (shown,) = (await done(host, "/v1/nodes", method="GET"))["items"]
    assert (shown["state"], shown["approved"]) == ("waiting", False)
    status, problem = await refused(host, "/v1/runs", {"target": "new", "argv": ["true"]})
    assert "new waits for approval" in problem["detail"]
    assert (await done(host, "/v1/nodes/new/approve"))["approved"] is True
    status, given = await enrol(host, key, "new", "")
    assert status == 200 and given["jwt"]


async def test_a_join_token_admits_as_many_nodes_as_it_says_and_then_none(
    host: HttpHost, tmp_path: Path
) -> None:
    answer = await host.ask("/v1/tokens", method="POST", body={"kind": "join", "uses": 2})
    token = answer.json["token"]
    keys = [Identity.open(tmp_path / f"{number}.nk") for number in range(3)]
    for key in (keys[0], keys[0], keys[1]):  # a repeat of one node counts once
        assert (await enrol(host, key, "n", token))[0] == 200
    status, problem = await enrol(host, keys[2], "n", token)
    assert (status, problem["code"]) == (403, "token_used_up")
    every = await done(host, "/v1/nodes", method="GET")
    assert len(every["items"]) == 2 and every["next"] is None
    first = await done(host, "/v1/nodes?limit=1", method="GET")
    after = urllib.parse.quote(first["next"])
    last = await done(host, f"/v1/nodes?limit=1&after={after}", method="GET")
    assert [*first["items"], *last["items"]] == every["items"] and last["next"] is None
    listed = (await done(host, "/v1/tokens", method="GET"))["items"]
    (kept,) = [item for item in listed if item["id"] == answer.json["id"]]
    assert (kept["uses"], kept["used"], kept["approve"]) == (2, 2, "auto")


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "join", "uses": 0},
        {"kind": "join", "approve": "perhaps"},
        {"kind": "api", "uses": 1},
        {"kind": "api", "approve": "manual"},
    ],
)
async def test_limits_that_make_no_sense_are_refused(host: HttpHost, body: dict[str, Any]) -> None:
    assert (await refused(host, "/v1/tokens", body))[0] == 400
