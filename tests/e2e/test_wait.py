"""One request starts and awaits a run, over a connection that is kept; events may come raw."""

from __future__ import annotations

from typing import Any

from quarterdeck.cli.run import output_bytes
from quarterdeck.client.http import Connection
from tests.e2e.up import Up


def test_one_request_starts_a_run_and_answers_with_its_end(up: Up) -> None:
    ready = up.ready
    server = Connection(ready["url"], ready["token"])
    body = {"target": up.node_names()[0], "argv": ["/bin/sh", "-c", "exit 3"]}
    ended = server.post("/v1/runs", body, wait="30s")
    assert (ended["state"], ended["outcome"]) == ("ended", "failed")
    assert [task["exit_code"] for task in ended["tasks"]] == [3]


def test_a_wait_that_is_over_answers_with_the_run_as_it_is(up: Up) -> None:
    ready = up.ready
    server = Connection(ready["url"], ready["token"])
    body = {"target": up.node_names()[0], "argv": ["sleep", "60"]}
    going_on = server.post("/v1/runs", body, wait="0.1s")
    assert going_on["state"] != "ended"
    server.post(f"/v1/runs/{going_on['id']}/cancel", nth=1)
    assert server.get(f"/v1/runs/{going_on['id']}", wait="30s")["outcome"] == "cancelled"


def test_a_connection_that_the_server_has_closed_is_not_used_again(up: Up) -> None:
    ready = up.ready
    server = Connection(ready["url"], ready["token"])
    server.get("/v1/nodes")
    kept = server._idle[0]
    server.get("/v1/nodes")
    assert server._idle == [kept]
    pid = ready["pids"]["server"]
    up.kill(pid)
    up.api("/v1/nodes")
    assert server.get("/v1/nodes")["items"]
    assert server._idle != [kept]
    server.close()


def test_raw_events_say_the_same_as_server_sent_ones(up: Up) -> None:
    ready = up.ready
    server = Connection(ready["url"], ready["token"])
    script = r"printf 'text\n'; printf '\377\000' >&2"
    body = {"target": "all", "argv": ["/bin/sh", "-c", script]}
    run = server.post("/v1/runs", body, wait="30s")
    path = f"/v1/runs/{run['id']}/events"
    told = [(event.id, event.data) for event in server.events(path, None)]
    raw = [(event.id, event.data) for event in server.events(path, None, raw=True)]
    assert {event["raw"] for _, event in raw if "raw" in event} == {b"text\n", b"\xff\0"}
    assert sorted(map(plain, raw)) == sorted(map(plain, told))


def plain(told: tuple[str | None, dict[str, Any]]) -> str:
    """An event with its output as bytes, however it came; cursors depend on the order of tasks."""
    _, event = told
    if event["type"] != "output":
        return repr(sorted(event.items()))
    rest = {key: value for key, value in event.items() if key not in ("raw", "data", "data_b64")}
    return repr((sorted(rest.items()), output_bytes(event)))
