"""Every route with every kind of token, in its own namespace and in another one.

A new route has to say here who may call it, or the first test fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import simple_websocket
from litestar.routes import BaseRoute, HTTPRoute, WebSocketRoute

from quarterdeck.api.app import application
from quarterdeck.core.access import KINDS
from quarterdeck.store.access import Principal
from quarterdeck.telemetry import RequestFailed
from tests.contracts.fabric_server import harbour
from tests.http.http_host import Answer, HttpHost, answering

DEADLINE_S = 20.0
ROOT = Principal("root", "api", "*")
PUBLIC: tuple[str, ...] = ()
API = ("api",)
READ = ("api", "watch")
SEND = ("api", "send")
RUN = {"target": "none", "argv": ["true"], "allow_empty": True}
TRACE = {"name": "deploy", "id": "web1", "key": "0" * 32}
KEY = {"Trace-Key": "0" * 32}
CLAIM = {"id": "0" * 16, "host": "h", "pid": 1, "user": "u"}


class Rule(msgspec.Struct, frozen=True):
    """Who may call a route (nobody named: everybody, without a token), and what it does with
    namespaces: `rows` of another are not there, `here` it acts in the one that is meant, `fleet` is
    for tokens of all of them, `shared` is the same in each."""

    kinds: tuple[str, ...]
    space: str
    body: Any = None
    path: str = ""


RULES = {
    "GET /": Rule(PUBLIC, "shared"),
    "GET /openapi.json": Rule(PUBLIC, "shared"),
    "GET /download": Rule(PUBLIC, "shared"),
    "GET /download/{name}": Rule(PUBLIC, "shared"),
    "HEAD /download/{name}": Rule(PUBLIC, "shared"),
    "GET /trace": Rule(PUBLIC, "shared"),
    "GET /trace/{name}": Rule(PUBLIC, "shared"),
    "GET /pages/{file}": Rule(PUBLIC, "shared"),
    "GET /healthz": Rule(PUBLIC, "shared"),
    "GET /readyz": Rule(PUBLIC, "shared"),
    "GET /metrics": Rule(API, "shared"),
    "GET /debug/status": Rule(API, "fleet"),
    "GET /v1/certificate": Rule(PUBLIC, "shared"),
    "POST /v1/enrol": Rule(PUBLIC, "shared"),
    "POST /v1/leaf": Rule(PUBLIC, "shared"),
    "POST /v1/agentless": Rule(API, "fleet"),
    "GET /v1/agentless/{agentless}": Rule(API, "shared"),
    "GET /v1/nodes": Rule(API, "shared"),
    "GET /v1/nodes/{node}": Rule(API, "shared"),
    "DELETE /v1/nodes/{node}": Rule(API, "fleet"),
    "POST /v1/nodes/{node}/approve": Rule(API, "fleet"),
    "POST /v1/nodes/{node}/drain": Rule(API, "fleet"),
    "POST /v1/nodes/{node}/undrain": Rule(API, "fleet"),
    "POST /v1/nodes/{node}/labels": Rule(API, "fleet"),
    "POST /v1/nodes/{node}/rename": Rule(API, "fleet"),
    "GET /v1/locks": Rule(API, "here"),
    "GET /v1/locks/{name}": Rule(API, "here"),
    "POST /v1/locks/{name}/claims": Rule(API, "here", CLAIM),
    "DELETE /v1/locks/{name}/claims/{claim}": Rule(API, "here"),
    "POST /v1/locks/{name}/claims/{claim}/renew": Rule(API, "here"),
    "POST /v1/locks/{name}/holders/{holder}/unlock": Rule(API, "here"),
    "GET /v1/runs": Rule(READ, "here"),
    "POST /v1/runs": Rule(API, "here", RUN),
    "POST /v1/runs/preview": Rule(API, "shared", RUN),
    "GET /v1/runs/{run_id}": Rule(READ, "rows"),
    "GET /v1/runs/{run_id}/events": Rule(READ, "rows", path="?follow=false"),
    "GET /v1/runs/{run_id}/output": Rule(READ, "rows"),
    "GET /v1/runs/{run_id}/fold": Rule(READ, "rows"),
    "GET /v1/runs/{run_id}/fold/diff": Rule(READ, "rows", path="?first=a&second=b"),
    "POST /v1/runs/{run_id}/cancel": Rule(API, "rows"),
    "POST /v1/runs/{run_id}/signal": Rule(API, "rows", {"signal": 15}),
    "POST /v1/runs/{run_id}/retry": Rule(API, "rows", {}),
    "POST /v1/runs/{run_id}/clone": Rule(API, "rows", {}),
    "POST /v1/runs/{run_id}/clone/preview": Rule(API, "rows", {}),
    "PUT /trace/{name}": Rule(SEND, "here"),
    "PUT /v1/trace/{name}": Rule(SEND, "here"),
    "POST /v1/trace/{name}": Rule(SEND, "here"),
    "GET /v1/trace/{name}/stream": Rule(READ, "here", path="?follow=false"),
    "GET /v1/traces": Rule(READ, "here"),
    "POST /v1/traces": Rule(SEND, "here", TRACE),
    "GET /v1/traces/{trace}": Rule(READ, "rows"),
    "POST /v1/traces/{trace}/segments": Rule(SEND, "rows"),
    "POST /v1/traces/{trace}/end": Rule(SEND, "rows", {"code": 0}),
    "GET /v1/tokens": Rule(API, "here"),
    "POST /v1/tokens": Rule(API, "shared", {"kind": "api"}),
    "DELETE /v1/tokens/{token}": Rule(API, "rows"),
}
LITESTARS = "/schema"  # its own description of the routes, for tokens of kind api
SOCKETS = {
    "/v1/trace/{name}/stream": Rule(READ, "here", path="?follow=false"),
    "/socket.io/": Rule(PUBLIC, "shared", path="?EIO=4&transport=websocket"),  # it asks inside
    "/fabric": Rule(PUBLIC, "shared"),  # bytes for nats-server, which asks for a pass of its own
    "/fabric/leafnode": Rule(PUBLIC, "shared"),
}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "A" * 22 + "==",
    "Sec-WebSocket-Version": "13",
}


def routes() -> Sequence[BaseRoute]:
    return application(None).routes


def test_every_route_has_a_rule_and_no_rule_is_left_over() -> None:
    found = {
        f"{method} {route.path_format}"
        for route in routes()
        if isinstance(route, HTTPRoute) and not route.path.startswith(LITESTARS)
        for method in route.methods
        if method != "OPTIONS"
    }
    assert found == set(RULES)
    assert not [route for route in routes() if isinstance(route, WebSocketRoute)]


class Rights:
    """A server with a run, a lock and a token in namespace `here`, and tokens of every kind."""

    def __init__(self, host: HttpHost) -> None:
        self.host = host
        self.tokens: dict[tuple[str, str], str] = {}
        self.names = dict.fromkeys(("agentless", "node", "holder", "claim"), "nosuch")
        self.names["name"] = "deploy"
        self.names["file"] = "trace.css"

    async def fill(self) -> None:
        tokens = self.host.server.tokens
        for kind in KINDS:
            for namespace in ("here", "there", "*"):
                _, text = await tokens.create(kind, by=ROOT, namespace=namespace)
                self.tokens[kind, namespace] = text
        kept, _ = await tokens.create("watch", by=ROOT, namespace="here")
        self.names["token"] = kept.id
        made = await self.ask("POST", "/v1/runs", ("api", "here"), RUN)
        assert made.status == 201, made.json
        self.names["run_id"] = made.json["id"]
        made = await self.ask("POST", "/v1/traces", ("send", "here"), TRACE)
        assert made.status == 201, made.json
        self.names["trace"] = made.json["trace"]

    async def ask(self, method: str, path: str, who: tuple[str, str], body: Any = None) -> Answer:
        token = self.tokens[who]
        return await self.host.ask(path, method=method, body=body, token=token, more=KEY)

    async def call(self, route: str, who: tuple[str, str], *, namespace: str = "") -> Answer:
        rule = RULES[route]
        method, _, path = route.partition(" ")
        return await self.ask(method, self.path(path, rule, namespace), who, rule.body)

    async def open(self, route: str, who: tuple[str, str] | None, *, namespace: str = "") -> Answer:
        """What a request for a WebSocket is answered: 101 when it opens; then it is closed."""
        path = self.path(route, SOCKETS[route], namespace)
        token = self.tokens[who] if who else ""
        return await self.host.ask(path, token=token, more=UPGRADE)

    def path(self, path: str, rule: Rule, namespace: str) -> str:
        path = re.sub(r"{(\w+)}", lambda found: self.names[found[1]], path) + rule.path
        return path + (f"{'&' if '?' in path else '?'}namespace={namespace}" if namespace else "")


@pytest.fixture
async def rights(tmp_path: Path) -> AsyncIterator[Rights]:
    async with (
        harbour(tmp_path) as place,
        answering(place.root, place.server.url, metrics="token") as host,
    ):
        found = Rights(host)
        await found.fill()
        yield found
        assert not host.ears.all(RequestFailed)


def refused(answer: Answer) -> str:
    """The code word of a refusal, or nothing."""
    return str(answer.json["code"]) if answer.status in (401, 403) else ""


async def test_a_route_is_open_to_the_kinds_it_names_and_to_no_other(rights: Rights) -> None:
    for route, rule in RULES.items():
        for kind in KINDS:
            code = refused(await rights.call(route, (kind, "*")))
            expected = "wrong_token" if rule.kinds and kind not in rule.kinds else ""
            if code != expected:
                raise AssertionError(f"{route} with {kind}: {code!r} instead of {expected!r}")
        if rule.kinds:
            method, _, path = route.partition(" ")
            answer = await rights.host.ask(path, method=method, token="")
            assert (answer.status, answer.json["code"]) == (401, "no_token"), route


async def test_what_is_in_another_namespace_is_not_there(rights: Rights) -> None:
    for route, rule in RULES.items():
        for kind in rule.kinds:
            here = await rights.call(route, (kind, "here"))
            there = await rights.call(route, (kind, "there"))
            told = f"{route} with {kind}: {here.status}, {there.status} {there.body[:200]!r}"
            match rule.space:
                case "rows":
                    assert here.status != 404 or here.json["code"] not in NOWHERE, told
                    assert there.status == 404 and there.json["code"] in NOWHERE, told
                case "here":
                    assert (refused(here), refused(there)) == ("", ""), told
                    wrong = await rights.call(route, (kind, "there"), namespace="here")
                    assert refused(wrong) == "wrong_namespace", told
                    root = await rights.call(route, (kind, "*"), namespace="here")
                    assert refused(root) in ("", "other_claim"), told
                case "fleet":
                    assert refused(here) == refused(there) == "wrong_namespace", told
                case "shared":
                    assert (refused(here), refused(there)) == ("", ""), told


async def test_every_websocket_has_a_rule_and_keeps_it(rights: Rights) -> None:
    assert sorted(rights.host.http.sockets) == sorted(SOCKETS)
    for route, rule in SOCKETS.items():
        for kind in KINDS:
            code = refused(await rights.open(route, (kind, "*")))
            assert code == ("wrong_token" if rule.kinds and kind not in rule.kinds else ""), route
        if not rule.kinds:
            continue
        assert (await rights.open(route, None)).json["code"] == "no_token", route
        for kind in rule.kinds:
            for where in ("here", "there"):
                assert (await rights.open(route, (kind, where))).status == 101, route
            assert (await rights.open(route, (kind, "*"), namespace="here")).status == 101, route
            wrong = await rights.open(route, (kind, "there"), namespace="here")
            assert refused(wrong) == "wrong_namespace", route


async def told(rights: Rights, who: tuple[str, str], event: str, **given: Any) -> str:
    """The code word of the answer of Socket.IO to a token and then an event; empty: it is done."""
    path = rights.path("/socket.io/", SOCKETS["/socket.io/"], "")
    url = f"ws://127.0.0.1:{rights.host.port}{path}"
    first = {"token": rights.tokens[who], **given}
    socket = await simple_websocket.AioClient.connect(url)
    try:
        await socket.send("40/trace,")
        for number, said in enumerate((["authenticate", first], [event, {"name": "deploy"}])):
            await socket.send(f"42/trace,{number}{json.dumps(said)}")
            start = f"43/trace,{number}"
            while not (answer := str(await socket.receive(DEADLINE_S))).startswith(start):
                continue
            (found,) = json.loads(answer.removeprefix(start))
            if not found["ok"]:
                return str(found["code"])
        return ""
    finally:
        await socket.close()


async def test_socketio_asks_for_the_token_inside_and_compares_it_as_routes_do(
    rights: Rights,
) -> None:
    for kind in KINDS:
        watched, sent = [
            await told(rights, (kind, "there"), event, **more)
            for event, more in (("attach", {}), ("data", {"name": "deploy"}))
        ]
        assert watched == ("" if kind in READ else "wrong_token"), kind
        expected = "" if kind in SEND else "no_sender" if kind in READ else "wrong_token"
        assert sent == expected, kind
        wrong = await told(rights, (kind, "there"), "attach", namespace="here")
        assert wrong == ("wrong_namespace" if kind in (*READ, *SEND) else "wrong_token"), kind


NOWHERE = ("run_not_found", "token_not_found", "trace_not_found")


async def test_lists_hold_what_the_token_sees_and_no_more(rights: Rights) -> None:
    async def items(path: str, who: tuple[str, str]) -> list[dict[str, Any]]:
        answer = await rights.ask("GET", path, who)
        assert answer.status == 200, answer.json
        found: list[dict[str, Any]] = answer.json["items"]
        return found

    runs = "/v1/runs?origin=run"
    (run,) = await items(runs, ("watch", "here"))
    assert (run["id"], run["namespace"]) == (rights.names["run_id"], "here")
    assert await items("/v1/runs", ("api", "there")) == []
    assert await items(f"{runs}&namespace=there", ("api", "*")) == []
    assert await items(runs, ("api", "*")) == [run]
    (trace,) = await items("/v1/traces", ("watch", "here"))
    assert (trace["trace"], trace["namespace"]) == (rights.names["trace"], "here")
    assert await items("/v1/traces", ("watch", "there")) == []
    for who, seen in (("here", {"here"}), ("there", {"there"}), ("*", {"here", "there", "*"})):
        assert {item["namespace"] for item in await items("/v1/tokens", ("api", who))} == seen
    assert (await rights.ask("GET", "/v1/runs/last", ("api", "there"))).status == 404
    assert (await rights.ask("GET", "/v1/runs/last", ("api", "here"))).status == 200
    beginning = run["id"][:4]
    assert (await rights.ask("GET", f"/v1/runs/{beginning}", ("api", "there"))).status == 404
    before = f"/v1/runs?before={run['id']}"
    assert (await rights.ask("GET", before, ("api", "there"))).status == 404


async def test_a_token_makes_none_that_may_more_than_itself(rights: Rights) -> None:
    async def make(who: str, **body: Any) -> Answer:
        return await rights.ask("POST", "/v1/tokens", ("api", who), body)

    for namespace in ("there", "*"):
        answer = await make("here", kind="api", namespace=namespace)
        assert refused(answer) == "wrong_namespace"
    for kind in ("join", "leaf"):
        assert refused(await make("here", kind=kind)) == "wrong_namespace"
        assert (await make("*", kind=kind)).json["namespace"] == "*"
    made = await make("here", kind="send", scope="deploy-*")
    assert (made.json["namespace"], made.json["scope"]) == ("here", "deploy-*")
    assert (await make("*", kind="watch")).json["namespace"] == "default"
    assert (await make("*", kind="watch", namespace="*")).json["namespace"] == "*"
    for body in (
        {"kind": "api", "scope": "x"},
        {"kind": "send", "scope": "a b"},
        {"kind": "send", "scope": "x" * 101},
        {"kind": "send", "namespace": "../x"},
        {"kind": "send", "namespace": ""},
    ):
        assert (await make("*", **body)).status == 400, body


async def test_a_token_with_a_scope_opens_nothing_but_what_compares_it(rights: Rights) -> None:
    async def made(kind: str, scope: str) -> str:
        body = {"kind": kind, "scope": scope}
        answer = await rights.ask("POST", "/v1/tokens", ("api", "here"), body)
        return str(answer.json["token"])

    async def ask(path: str, token: str, body: Any = None) -> Answer:
        method = "GET" if body is None else "POST"
        return await rights.host.ask(path, method=method, body=body, token=token, more=KEY)

    trace = f"/v1/traces/{rights.names['trace']}"
    fits, other = await made("watch", "dep*y"), await made("watch", "deploy-*")
    for path in ("/v1/runs", f"/v1/runs/{rights.names['run_id']}"):
        answer = await ask(path, fits)
        assert refused(answer) == "out_of_scope" and "dep*y" in answer.json["detail"]
    assert (await ask(trace, fits)).status == 200
    assert refused(await ask(trace, other)) == "out_of_scope"
    assert len((await ask("/v1/traces", fits)).json["items"]) == 1
    assert (await ask("/v1/traces", other)).json["items"] == []
    sender, stranger = await made("send", "deploy"), await made("send", "?eplo")
    assert (await ask("/v1/traces", sender, TRACE)).status == 200
    assert refused(await ask("/v1/traces", stranger, TRACE)) == "out_of_scope"
    # who knows the key of a trace still begins none under another name
    renamed = {**TRACE, "name": "xeplo"}
    assert refused(await ask("/v1/traces", stranger, renamed)) == "out_of_scope"
    assert refused(await ask(f"{trace}/end", stranger, {"code": 1})) == "out_of_scope"
    assert (await ask(f"{trace}/end", sender, {"code": 1})).json["state"] == "ended"


async def test_a_run_made_from_a_run_stays_in_its_namespace(rights: Rights) -> None:
    path = f"/v1/runs/{rights.names['run_id']}/clone"
    made = await rights.ask("POST", path, ("api", "*"), {"allow_empty": True})
    assert (made.status, made.json["namespace"]) == (201, "here")


async def test_an_idempotency_key_is_of_one_namespace(rights: Rights) -> None:
    async def start(namespace: str) -> Answer:
        path = f"/v1/runs?namespace={namespace}"
        token = rights.tokens["api", "*"]
        more = {"Idempotency-Key": "k"}
        return await rights.host.ask(path, method="POST", body=RUN, token=token, more=more)

    first, again, other = [await start(name) for name in ("here", "here", "there")]
    assert first.json["id"] == again.json["id"] and first.json["namespace"] == "here"
    assert (other.status, other.json["code"]) == (409, "idempotency_key")
