"""Limits, retries and deadlines with real agents, judged by the times that the record tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.up import Up, running, wait_for

NODES = 7


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("limits"), nodes=NODES) as made:
        yield made


def failing_at(*positions: int, then: str = "sleep 0.3") -> str:
    """A script that fails on the nodes at these positions of the target."""
    cases = "|".join(f"*-{position}-?" for position in positions)
    return f"{then}; case $QD_ATTEMPT in {cases}) exit 3;; esac"


def last(up: Up) -> dict[str, Any]:
    found: dict[str, Any] = up.json("show", "last")
    return found


def attempts(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [attempt for task in run["tasks"] for attempt in task["attempts"]]


def most_at_once(run: dict[str, Any]) -> int:
    """By the recorded times of starts and ends."""
    changes = []
    for attempt in attempts(run):
        if attempt["started_at"]:
            changes += [(attempt["started_at"], 1), (attempt["ended_at"], -1)]
    level = peak = 0
    for _, change in sorted(changes, key=lambda at: (datetime.fromisoformat(at[0]), at[1])):
        level += change
        peak = max(peak, level)
    return peak


def seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def test_a_task_whose_turn_has_not_come_is_cancelled_alone(up: Up, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waiting = f"until [ -e {go} ]; do sleep 0.05; done"
    run = up.detach("all", "--max-parallel", "1", "--canary", "1", "--", waiting)
    tasks = up.json("show", run)["tasks"]
    assert [task["state"] for task in tasks[2:]] == ["pending"] * (NODES - 2)
    third = tasks[2]["node"]
    assert up.qd("cancel", run, "--node", third).returncode == 0
    again = up.qd("cancel", run, "--node", third)
    assert again.returncode == 6 and b"has already ended: skipped" in again.stderr
    go.touch()
    ended = up.ended(run)
    taken = ended["tasks"][2]
    assert (taken["outcome"], taken["reason"]) == ("skipped", "cancelled before it started")
    assert (ended["counts"]["succeeded"], ended["counts"]["skipped"]) == (NODES - 1, 1)
    assert (ended["outcome"], ended["halt"]) == ("cancelled", None)


def test_a_rolling_run_stops_at_its_limit_and_skips_the_rest(up: Up) -> None:
    script = failing_at(1, 2)
    words = ("--max-parallel", "2", "--max-failures", "1", "--label", "change=42")
    done = up.qd("run", "-t", "all", *words, "--", script)
    assert done.returncode == 1
    run = last(up)
    assert most_at_once(run) == 2
    counts = {name: n for name, n in run["counts"].items() if n}
    begun = counts["succeeded"] + counts["failed"]
    assert counts == {
        "total": NODES,
        "succeeded": begun - 2,
        "failed": 2,
        "skipped": NODES - begun,
    }
    assert begun >= 3  # two fail, and one came before them; how many more is a matter of speed
    reason = "stopped after 2 failures (limit 1)"
    assert (run["outcome"], run["halt"], run["reason"]) == ("failed", "limit", reason)
    skipped = [task for task in run["tasks"] if task["outcome"] == "skipped"]
    assert not any(a["started_at"] for task in skipped for a in task["attempts"])
    assert {task["reason"] for task in skipped} == {reason}
    assert f"{len(skipped)} skipped; {reason}" in done.stderr.decode()
    shown = up.qd("show", "last").stdout.decode()
    assert reason in shown and "change=42" in shown and "at once 2, failures 1" in shown
    listed = up.json("runs", "--label", "change=42")["items"]
    assert [each["id"] for each in listed] == [run["id"]]
    assert up.json("runs", "--label", "change=43")["items"] == []


def test_canaries_come_first_and_alone(up: Up) -> None:
    good = up.qd("run", "-t", "all", "--canary", "2", "--", "sleep 0.2")
    assert good.returncode == 0
    run = last(up)
    first, rest = run["tasks"][:2], run["tasks"][2:]
    ended = max(attempt["ended_at"] for task in first for attempt in task["attempts"])
    assert all(task["attempts"][0]["started_at"] > ended for task in rest)
    bad = up.qd("run", "-t", "all", "--canary", "2", "--", failing_at(0))
    assert bad.returncode == 1
    run = last(up)
    assert (run["halt"], run["counts"]["skipped"]) == ("canary", NODES - 2)


def test_a_failed_task_is_tried_again_after_a_wait_that_the_record_shows(up: Up) -> None:
    script = "case $QD_ATTEMPT in *-3) echo third; exit 0;; esac; echo no; exit 75"
    words = ("--retry", "3", "--retry-delay", "0.6", "--retry-on", "75")
    done = up.qd("run", "-t", up.node_names()[0], *words, "--", script)
    assert (done.returncode, done.stdout) == (0, b"no\nno\nthird\n")
    (task,) = last(up)["tasks"]
    tries = task["attempts"]
    assert [a["outcome"] for a in tries] == ["failed", "failed", "succeeded"]
    for before, after, longest in zip(tries, tries[1:], (0.6, 1.2), strict=False):
        planned = seconds(before["ended_at"], after["not_before"])
        assert planned < longest + 1.0
        assert after["started_at"] >= after["not_before"] > before["ended_at"]
    assert "attempt 1 failed; attempt 2" in done.stderr.decode()
    shown = up.qd("show", "last").stdout.decode()
    assert "try 1" in shown and " s later" in shown
    watched = up.qd("watch", "last", "--json").stdout.splitlines()
    told = [json.loads(line) for line in watched]
    assert b"".join(e["data"].encode() for e in told if e["type"] == "output") == done.stdout


def test_codes_that_are_not_to_be_retried_are_final(up: Up) -> None:
    words = ("--retry", "5", "--never-retry-on", "2")
    done = up.qd("run", "-t", up.node_names()[0], *words, "--", "exit 2")
    assert done.returncode == 2
    assert len(attempts(last(up))) == 1


def test_a_retry_may_go_elsewhere(up: Up) -> None:
    words = ("--max-parallel", "1", "--retry", "1", "--retry-delay", "0.1", "--retry-elsewhere")
    done = up.qd("run", "-t", "all", *words, "--", failing_at(0))
    assert done.returncode == 1
    first = last(up)["tasks"][0]
    nodes = [attempt["node_id"] for attempt in first["attempts"]]
    assert len(set(nodes)) == 2 and first["node_id"] == nodes[1]


def test_a_deadline_stops_what_runs_and_skips_the_rest(up: Up) -> None:
    words = ("--max-parallel", "2", "--deadline", "1s", "--grace", "1s")
    done = up.qd("run", "-t", "all", *words, "--", "sleep 60")
    assert done.returncode == 124
    run = last(up)
    counts = {name: n for name, n in run["counts"].items() if n}
    assert counts == {"total": NODES, "timed_out": 2, "skipped": NODES - 2}
    assert (run["outcome"], run["halt"]) == ("timed_out", "deadline")
    assert seconds(run["created_at"], run["ended_at"]) < 10
    assert "stopped at its deadline (1 s)" in done.stderr.decode()


def test_a_cancel_ends_what_waits_for_another_try(up: Up) -> None:
    words = ("--max-parallel", "1", "--retry", "5", "--retry-delay", "1h")
    run = up.detach("all", *words, "--", "exit 1")

    def waits() -> bool:
        return bool(up.api(f"/v1/runs/{run}")["counts"]["retrying"])

    wait_for("a task that waits for its next try", waits)
    assert up.qd("cancel", run).returncode == 0
    ended = up.ended(run)
    counts = {name: n for name, n in ended["counts"].items() if n}
    assert counts == {"total": NODES, "cancelled": 1, "skipped": NODES - 1}
    assert ended["outcome"] == "cancelled"
    assert [a["outcome"] for a in attempts(ended)] == ["failed", "cancelled"]


def test_an_attempt_may_go_on_after_its_timeout_and_is_shown_as_overdue(up: Up) -> None:
    words = ("--timeout", "0.3s", "--on-timeout", "alert")
    done = up.qd("run", "-t", up.node_names()[0], *words, "--", "sleep 1; echo late")
    assert (done.returncode, done.stdout) == (0, b"late\n")
    (attempt,) = attempts(last(up))
    assert (attempt["overdue"], attempt["outcome"]) == (True, "succeeded")
    assert "overdue" in up.qd("show", "last").stdout.decode()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--max-parallel", "0"), "at least one task"),
        (("--max-parallel", "x"), "is no amount"),
        (("--max-failures", "101%"), "more than all"),
        (("--retry-delay", "3s"), "say how often"),
        (("--retry-on", "1,x"), "are no exit codes"),
        (("--label", "x"), "write KEY=VALUE"),
        (("--on-timeout", "alert"), "needs a --timeout"),
    ],
)
def test_options_that_mean_nothing_are_refused_with_a_sentence(
    up: Up, words: tuple[str, ...], sentence: str
) -> None:
    done = up.qd("run", "-t", "all", *words, "--", "true")
    assert done.returncode == 2
    assert sentence in done.stderr.decode()
