"""Faults at named moments: what was promised then still holds (reliability rows X1-X28)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.up import QD, Up, running, wait_for


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up") / "data", nodes=1) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Up]:
    """For a test that stops and starts it."""
    with running(tmp_path / "up", nodes=1) as found:
        yield found


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for the time of a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def node(up: Up) -> str:
    return up.node_names()[0]


def agent_pid(up: Up) -> int:
    return int(up.ready["pids"]["agents"][node(up)])


def directory(up: Up, run: str) -> Path:
    return up.data / "agents" / node(up) / "attempts" / f"{run}-0-1"


def started(up: Up, run: str) -> dict[str, Any]:
    """The `started` of the run's attempt, once it is there."""
    path = directory(up, run) / "started"
    wait_for("started", path.exists)
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def counted(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def script(count: Path, body: str) -> str:
    return f'echo "$QD_ATTEMPT" >> {count}; {body}'


def alive(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_task_that_ends_while_its_agent_is_dead_keeps_its_exit_code(
    up: Up, tmp_path: Path
) -> None:
    """X3"""
    gate, count = tmp_path / "gate", tmp_path / "count"
    body = f"while [ ! -e {gate} ]; do sleep 0.1; done; echo late; exit 5"
    run = up.detach("all", "--", script(count, body))
    started(up, run)
    assert up.process is not None
    with stopped(up.process.pid):
        os.kill(agent_pid(up), signal.SIGKILL)
        gate.touch()
        wait_for("the end on the node", (directory(up, run) / "exit.json").exists)
    shown = up.ended(run)
    assert (shown["tasks"][0]["outcome"], shown["tasks"][0]["exit_code"]) == ("failed", 5)
    assert up.qd("logs", run, "--raw", "--stream", "stdout").stdout == b"late\n"
    assert counted(count) == [f"{run}-0-1"]


def test_an_agent_that_restarts_after_a_success_never_runs_it_again(up: Up, tmp_path: Path) -> None:
    """X14: the end is on the node, the server has not heard of it, the agent starts anew."""
    count = tmp_path / "count"
    with stopped_after_start(up, script(count, "sleep 0.5; echo done")) as run:
        wait_for("the end on the node", (directory(up, run) / "exit.json").exists)
        for _ in range(3):
            pid = agent_pid(up)
            os.kill(pid, signal.SIGKILL)
            wait_for("a new agent", partial(another_agent, up, pid))
    shown = up.ended(run)
    assert shown["outcome"] == "succeeded"
    assert counted(count) == [f"{run}-0-1"]


def another_agent(up: Up, pid: int) -> bool:
    return agent_pid(up) != pid


@contextlib.contextmanager
def stopped_after_start(up: Up, text: str) -> Iterator[str]:
    """A run whose server is stopped once its attempt has started; it goes on after the block."""
    run = up.detach("all", "--", text)
    started(up, run)
    with stopped(up.ready["pids"]["server"]):
        yield run


def test_a_killed_shim_is_lost_and_its_leftovers_are_swept_and_nothing_runs_again(
    up: Up, tmp_path: Path
) -> None:
    """X28"""
    count, pids = tmp_path / "count", tmp_path / "pids"
    body = f"setsid sleep 1000 & echo $! >> {pids}; echo before; sleep 1000"
    run = up.detach("all", "--", script(count, body))
    record = started(up, run)
    output = directory(up, run) / "stdout"
    wait_for("its output", lambda: output.exists() and output.read_bytes())
    os.kill(record["shim"]["pid"], signal.SIGKILL)
    shown = up.ended(run)
    task = shown["tasks"][0]
    assert (shown["outcome"], task["outcome"], task["exit_code"]) == ("lost", "lost", None)
    assert "shim was killed" in task["error"]
    assert not alive(record["child"]["pid"])
    assert not alive(int(counted(pids)[0]))
    shown_log = up.qd("logs", run, "--raw", "--stream", "stdout")
    assert (shown_log.stdout, shown_log.stderr) == (b"before\n", b"")
    assert counted(count) == [f"{run}-0-1"]


def test_work_that_waits_for_its_node_survives_a_restart_of_everything(
    own: Up, tmp_path: Path
) -> None:
    """X7: the node is away when the run is made, and every process is replaced meanwhile."""
    count = tmp_path / "count"
    assert own.process is not None
    with stopped(own.process.pid):
        os.kill(agent_pid(own), signal.SIGKILL)
        run = own.detach("all", "--offline", "1h", "--", script(count, "echo ran"))
        assert own.api(f"/v1/runs/{run}")["state"] == "pending"
    own.stop()
    own.start()
    assert own.ended(run)["outcome"] == "succeeded"
    assert counted(count) == [f"{run}-0-1"]


def test_a_stop_of_qd_up_leaves_tasks_running_and_the_next_start_adopts_them(
    own: Up, tmp_path: Path
) -> None:
    """R13"""
    gate, count = tmp_path / "gate", tmp_path / "count"
    body = f"while [ ! -e {gate} ]; do echo tick; sleep 0.1; done; exit 3"
    run = own.detach("all", "--", script(count, body))
    child = started(own, run)["child"]["pid"]
    assert own.stop() == 0
    assert not (own.data / "ready.json").exists()
    assert alive(child)
    own.start()
    assert own.api(f"/v1/runs/{run}")["state"] == "running"
    gate.touch()
    shown = own.ended(run)
    assert shown["tasks"][0]["exit_code"] == 3
    assert counted(count) == [f"{run}-0-1"]


def test_a_run_on_a_node_that_stays_away_fails_when_its_time_is_over(up: Up) -> None:
    """R12"""
    assert up.process is not None
    with stopped(up.process.pid):
        os.kill(agent_pid(up), signal.SIGKILL)
        waiting = up.detach("all", "--offline", "1h", "--", "true")
        wait_for("silence", lambda: up.api("/v1/nodes")["items"][0]["state"] != "ready", 40)
        failing = up.detach("all", "--offline", "fail", "--", "true")
        task = up.ended(failing)["tasks"][0]
        assert (task["outcome"], task["attempts"][0]["reason"]) == ("failed", "offline")
        assert up.qd("cancel", waiting).returncode == 0
        assert up.ended(waiting)["outcome"] == "cancelled"


def test_a_silent_node_is_not_dead_and_gets_no_second_copy(up: Up, tmp_path: Path) -> None:
    """X15"""
    count = tmp_path / "count"
    run = up.detach("all", "--", script(count, "sleep 3; echo fine"))
    started(up, run)
    with stopped(agent_pid(up)):
        wait_for("silence", lambda: up.api("/v1/nodes")["items"][0]["state"] == "silent", 40)
        shown = up.api(f"/v1/runs/{run}")
        assert shown["state"] == "running"
        assert b"last seen" in up.qd("show", run).stdout
    assert up.ended(run)["outcome"] == "succeeded"
    assert counted(count) == [f"{run}-0-1"]


def test_a_cancel_reaches_a_task_whose_agent_was_away(up: Up, tmp_path: Path) -> None:
    run = up.detach("all", "--", "sleep 1000")
    child = started(up, run)["child"]["pid"]
    wait_for("running", lambda: up.api(f"/v1/runs/{run}")["tasks"][0]["state"] == "running")
    assert up.process is not None
    with stopped(up.process.pid):
        os.kill(agent_pid(up), signal.SIGKILL)
        assert up.qd("cancel", run).returncode == 0
        assert up.api(f"/v1/runs/{run}")["state"] == "stopping"
    shown = up.ended(run)
    assert shown["outcome"] == "cancelled"
    assert not alive(child)


def test_a_leashed_task_ends_when_no_server_is_heard(up: Up) -> None:
    run = up.detach("all", "--lost-after", "7s", "--grace", "1s", "--", "sleep 1000")
    child = started(up, run)["child"]["pid"]
    with stopped(up.ready["pids"]["server"]):
        wait_for("its own end", lambda: not alive(child), 40)
    task = up.ended(run)["tasks"][0]
    assert (task["outcome"], task["attempts"][0]["reason"]) == ("lost", "lost_after")


def test_a_leashed_task_lives_while_a_server_is_heard(up: Up) -> None:
    run = up.detach("all", "--lost-after", "6s", "--", "sleep 14; echo alive")
    assert up.ended(run)["outcome"] == "succeeded"


def test_an_agent_started_inside_a_task_is_no_leftover_of_it(up: Up, tmp_path: Path) -> None:
    """The mark of the attempt is shed by a re-exec, so a sweep does not find the process."""
    pids = tmp_path / "pids"
    inner = tmp_path / "inner"
    text = (
        f"setsid {QD} up --data {inner} --listen 127.0.0.1:0 > /dev/null 2>&1 & echo $! > {pids};"
        f" while [ ! -e {inner}/ready.json ]; do sleep 0.05; done; sleep 1000"
    )
    run = up.detach("all", "--", text)
    record = started(up, run)
    wait_for("the inner qd up", (inner / "ready.json").exists, 60)
    os.kill(record["shim"]["pid"], signal.SIGKILL)
    assert up.ended(run)["outcome"] == "lost"
    pid = int(pids.read_text())
    assert alive(pid)
    os.kill(pid, signal.SIGTERM)
    wait_for("the inner one's stop", lambda: not alive(pid))
