"""Tasks of a pick that never got a node: what people are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from quarterdeck.cli.fold import Report
from quarterdeck.cli.run import _TextView
from quarterdeck.client.http import Connection
from quarterdeck.core.fold import NOT_PLACED, Result, StreamSum, grouped
from quarterdeck.core.gather import Gathering
from quarterdeck.errors import NotFound

NOTHING = {"bytes": 0, "sha256": ""}


class Server:
    """Has no output, as of a task that never began; counts who asks all the same."""

    asked = 0

    def stream(self, path: str) -> Iterator[bytes]:
        self.asked += 1
        raise NotFound("no_output", f"No output at {path}.")


def event(task: str, state: str, node: str = "", **more: Any) -> dict[str, Any]:
    fields = {"outcome": None, "exit_code": None, "signal": None, "error": None, "reason": ""}
    fields |= {"type": "task", "task": task, "node": node, "state": state, "attempt": f"{task}-2"}
    return fields | {"not_before": None} | more


def told(capsys: pytest.CaptureFixture[str], nodes: int, *events: dict[str, Any]) -> str:
    view = _TextView()
    view.show({"type": "run", "id": "r1", "nodes": nodes})
    for one in events:
        view.show(one)
    counts = {"skipped": nodes, "total": nodes}
    view.show({"type": "ended", "id": "r1", "outcome": "failed", "reason": "", "counts": counts})
    return capsys.readouterr().err


def test_a_try_that_failed_is_told_with_the_node_it_was_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = told(capsys, 2, event("a", "running", "web-1"), event("a", "retrying", "web-2"))
    assert "qd: web-1: attempt 1 failed" in text
    over = told(capsys, 2, event("a", "retrying", "x", not_before="2031-05-06T07:08:09Z"))
    assert "attempt 2 in" in over
    over = told(capsys, 2, event("a", "retrying", "x", not_before="2001-05-06T07:08:09Z"))
    assert "attempt 2 at once." in over
    text = told(capsys, 2, event("b", "running", "web-1"), event("b", "retrying"))
    assert "qd: web-1: attempt 1 failed" in text
    assert f"qd: {NOT_PLACED}: attempt 1 failed" in told(capsys, 2, event("c", "retrying"))


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_summary_says_that_a_task_had_no_node(
    nodes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [event(str(n), "ended", outcome="skipped") for n in range(nodes)]
    assert told(capsys, nodes, *ends).count(NOT_PLACED) == nodes


def test_a_group_names_them_and_does_not_ask_for_output_that_can_not_be() -> None:
    results = [
        Result(task=f"t{n}", node="", outcome="skipped", stdout=StreamSum()) for n in range(2)
    ]
    (group,) = grouped(results)
    assert group.nodes == NOT_PLACED
    server = Server()
    report = Report(cast(Connection, server), Gathering())
    body = {"id": group.id, "count": 2, "nodes": group.nodes, "outcome": "skipped"}
    body |= {"exit_code": None, "signal": None, "stdout": NOTHING, "stderr": NOTHING}
    report.load({"groups": [body | {"sample_node": "", "sample_output": ""}]})
    assert report.summary(width=None) == [f"2 the same, skipped: {NOT_PLACED}"]
    assert server.asked == 0


def test_a_live_picture_tells_tasks_on_nodes_of_one_name_apart() -> None:
    gathering = Gathering()
    for task in ("a", "b"):
        gathering.output(task, "web-1", f"{task}-1", "stdout", 0, f"I am {task}\n".encode())
    report = Report(cast(Connection, Server()), gathering)
    lines = report.live(80, 20, 1.0)
    assert [line.split("running")[0].split("m")[-1] for line in lines if "running" in line] == [
        "2 "
    ]
    assert sum("I am" in line for line in lines) == 2
