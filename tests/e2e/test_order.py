"""`qd` with every detail of an order, signals, single tasks, and runs made from runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.up import Up, running, wait_for

COUNT = "trap 'echo HUP' HUP; trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up") / "data", nodes=2) as up:
        yield up


def says(up: Up, run: str, node: str, text: bytes, times: int = 1) -> None:
    def said() -> bool:
        return up.qd("logs", run, "--node", node).stdout.count(text) >= times

    wait_for(f"{text!r} of {node}", said)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_run_as_another_user_with_umask_and_input(up: Up) -> None:
    node = up.node_names()[0]
    done = up.qd(
        "run",
        "-t",
        node,
        "--user",
        "nobody",
        "--umask",
        "027",
        "--stdin",
        "-",
        "--",
        "id -un; echo $USER $HOME; umask; cat",
        stdin=b"given\n",
    )
    assert done.returncode == 0, done.stderr
    name, who, mask, given = done.stdout.decode().splitlines()
    assert (name, mask, given) == ("nobody", "0027", "given") and who.startswith("nobody /")


def test_a_user_that_the_node_does_not_have_is_refused_with_a_sentence(up: Up) -> None:
    done = up.qd("run", "-t", up.node_names()[0], "--user", "no-such-user", "--", "true")
    assert done.returncode == 1
    assert b"This node has no user 'no-such-user'." in done.stderr


def test_a_terminal_keeps_the_exit_code(up: Up) -> None:
    done = up.qd("run", "-t", up.node_names()[0], "--pty", "--", "test -t 1 && echo $TERM; exit 9")
    assert done.returncode == 9
    assert done.stdout == b"xterm-256color\r\n"


def test_output_beyond_the_limit_is_counted_and_said(up: Up) -> None:
    done = up.qd(
        "run", "-t", up.node_names()[0], "--max-output", "10k", "--", "head -c 20480 /dev/zero"
    )
    assert (done.returncode, len(done.stdout)) == (0, 10240)
    assert b"10.0 KiB of output beyond --max-output were dropped" in done.stderr


def test_a_signal_goes_to_one_task_and_is_shown(up: Up) -> None:
    first, second = up.node_names()
    run = up.detach("all", COUNT)
    for node in (first, second):
        says(up, run, node, b"up")
    assert up.qd("signal", run, "HUP", "--node", first).returncode == 0
    says(up, run, first, b"HUP")
    answer = up.json("signal", run, "SIGHUP")
    assert sorted(answer["nodes"]) == sorted([first, second])
    says(up, run, second, b"HUP")
    says(up, run, first, b"HUP", times=2)

    def sent() -> bool:
        return up.qd("show", run).stdout.count(b"sent") == 3

    wait_for("the record of three signals", sent)
    assert up.qd("cancel", run, "--node", second).returncode == 0
    up.qd("signal", run, "USR1", "--node", first)
    ended = up.ended(run)
    tasks = {task["node"]: task for task in ended["tasks"]}
    assert (tasks[first]["outcome"], tasks[first]["exit_code"]) == ("failed", 3)
    assert tasks[second]["outcome"] == "cancelled"
    late = up.qd("signal", run, "HUP", "--node", first)
    assert late.returncode != 0 and b"has already ended: failed" in late.stderr
    unknown = up.qd("signal", run, "HUP", "--node", "nowhere")
    assert unknown.returncode != 0 and b"has no task on 'nowhere'" in unknown.stderr


def test_one_of_two_runs_of_a_command_is_killed_and_the_other_lives(up: Up) -> None:
    node = up.node_names()[0]
    killed, lives = up.detach(node, COUNT), up.detach(node, COUNT)
    for run in (killed, lives):
        says(up, run, node, b"up")
    assert up.qd("signal", killed, "KILL", "--tree").returncode == 0
    assert up.ended(killed)["tasks"][0]["attempts"][0]["signal"] == 9
    assert up.qd("signal", lives, "HUP").returncode == 0
    says(up, lives, node, b"HUP")
    up.qd("signal", lives, "USR1")
    assert up.ended(lives)["tasks"][0]["exit_code"] == 3


def test_a_retry_goes_where_it_failed_and_names_its_parent(up: Up, tmp_path: Path) -> None:
    marker = f"{tmp_path}/marker"
    run = up.ended(up.detach("all", f"mkdir {marker}"))
    failed = [task["node"] for task in run["tasks"] if task["outcome"] == "failed"]
    assert len(failed) == 1
    os.rmdir(marker)
    again = up.qd("retry", run["id"], "--failed", "--detach").stdout.decode().strip()
    ended = up.ended(again)
    assert [task["node"] for task in ended["tasks"]] == failed
    assert (ended["outcome"], ended["parent"], ended["origin"]) == ("succeeded", run["id"], "retry")
    assert f"retry of {run['id']}".encode() in up.qd("show", again).stdout
    nothing = up.qd("retry", again)
    assert nothing.returncode != 0 and b"Every task of run" in nothing.stderr


def test_a_clone_changes_what_it_is_told_and_keeps_the_rest(up: Up) -> None:
    node = up.node_names()[0]
    run = up.ended(up.detach(node, 'echo "$WORD"; pwd'))["id"]
    preview = up.json("clone", run, "--preview", "-e", "WORD=hello", "--cwd", "/usr")
    assert preview["nodes"] == [node] and preview["request"]["cwd"] == "/usr"
    done = up.qd("clone", run, "-e", "WORD=hello", "--cwd", "/usr")
    assert (done.returncode, done.stdout) == (0, b"hello\n/usr\n")
    other = up.qd("clone", run, "--", "echo other")
    assert (other.returncode, other.stdout) == (0, b"other\n")
