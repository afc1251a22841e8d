"""The HTTP API against clients that mean no good: sentences and right codes, never a 500."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

import pytest

from tests.e2e.up import Up


def call(
    up: Up, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """(status, body) of one request."""
    ready = up.ready
    parts = urllib.parse.urlsplit(ready["url"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    sent = {
        "Authorization": f"Bearer {ready['token']}",
        "Content-Type": "application/json",
        **(headers or {}),
    }
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def start(up: Up, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
    status, data = call(up, "POST", "/v1/runs", json.dumps(body).encode(), headers)
    return status, json.loads(data)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"target":"all","script":"\xff\xfe"}',
        b'{"target":"all"}',
        b'{"target":"all","argv":[]}',
        b'{"target":"all","argv":[1]}',
        b'{"target":"all","argv":["true"],"unknown":1}',
        b'{"target":"all","argv":["true"],"timeout_s":-1}',
        b'{"target":"all","argv":["true"],"timeout_s":1e999}',
        b'{"target":"all","argv":["true"],"leftovers":"kill\\n"}',
        b'{"target":"all","argv":["true"],"env":{"A=B":"x"}}',
        b'{"target":"all","argv":["a\\u0000b"]}',
        b'{"target":"","argv":["true"]}',
        b'{"target":"((((","argv":["true"]}',
        b'{"target":"all","script_b64":"not base64"}',
        b'{"target":"all","argv":["true"],"script":"true"}',
    ],
)
def test_a_body_that_cannot_be_taken_is_400_with_a_sentence(up: Up, body: bytes) -> None:
    status, data = call(up, "POST", "/v1/runs", body)
    problem = json.loads(data)
    assert status == 400, problem
    assert problem["code"] and problem["detail"]


def test_an_idempotency_key_gives_one_run_and_is_no_disguise_for_another_order(up: Up) -> None:
    key = {"Idempotency-Key": "k1"}
    first = start(up, key, target="all", argv=["true"])
    again = start(up, key, target="all", argv=["true"])
    other = start(up, key, target="all", argv=["false"])
    assert first[0] == again[0] == 201
    assert first[1]["id"] == again[1]["id"]
    assert (other[0], other[1]["code"]) == (409, "idempotency_key")


@pytest.mark.parametrize(
    "cursor", ["x", "0;0-1:-5,5", "9" * 1000, "0;0-1:1", "1;../x:0,0", "0;0-1:1_0,0", "-1"]
)
def test_a_cursor_that_is_none_is_400(up: Up, cursor: str) -> None:
    run = start(up, target="all", argv=["true"])[1]["id"]
    up.ended(run)
    status, _ = call(up, "GET", f"/v1/runs/{run}/events", headers={"Last-Event-ID": cursor})
    assert status == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs/..%2f..%2fetc", 404),
        ("/v1/runs/%00", 404),
        ("/v1/nope", 404),
        ("/v1/runs?limit=0", 400),
        ("/v1/runs?limit=x", 400),
        ("/v1/runs?state=dancing", 400),
        ("/v1/runs/last/output?offset=-1", 400),
        ("/v1/runs/last/output?stream=stdout%0a", 400),
        ("/v1/runs/last?wait=soon", 400),
    ],
)
def test_odd_requests_get_the_right_code(up: Up, path: str, status: int) -> None:
    start(up, target="all", argv=["true"])
    found, data = call(up, "GET", path)
    assert found == status, data
    assert json.loads(data)["code"]


def test_without_a_token_nothing_but_the_public_pages_answers(up: Up) -> None:
    for path in ("/v1/runs", "/v1/nodes", "/v1/runs/last", "/v1/runs/last/events"):
        assert call(up, "GET", path, headers={"Authorization": ""})[0] == 401
    for path in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert call(up, "GET", path, headers={"Authorization": ""})[0] == 200


def test_a_join_token_starts_no_run(up: Up) -> None:
    join = (up.data / "server" / "tokens").read_text().split()[1]
    status, data = call(up, "GET", "/v1/runs", headers={"Authorization": f"Bearer {join}"})
    assert (status, json.loads(data)["code"]) == (403, "wrong_token")


def test_the_events_of_a_run_go_on_after_the_last_one_seen(up: Up) -> None:
    run = start(up, target=up.node_names()[0], argv=["/bin/sh", "-c", "echo a; sleep 0.3; echo b"])[
        1
    ]["id"]
    up.ended(run)
    _, whole = call(up, "GET", f"/v1/runs/{run}/events")
    frames = [frame for frame in whole.decode().split("\n\n") if "event: output" in frame]
    ids = [line[4:] for line in frames[0].splitlines() if line.startswith("id: ")]
    _, rest = call(up, "GET", f"/v1/runs/{run}/events", headers={"Last-Event-ID": ids[0]})
    assert rest.decode().count("event: output") == len(frames) - 1
    assert rest.decode().count("event: ended") == 1
