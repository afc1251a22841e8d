"""`qd run` against real nodes: live output, streams apart, exit codes, sentences."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.up import QD, Up, wait_for


def one(up: Up) -> str:
    return up.node_names()[0]


def test_a_command_runs_on_every_node_with_prefixed_output(up: Up) -> None:
    done = up.qd("run", "-t", "all", "--", "echo hello; echo oops >&2")
    assert done.returncode == 0, done
    for name in up.node_names():
        assert f"{name} | hello\n".encode() in done.stdout
        assert f"{name} | oops\n".encode() in done.stderr
    assert b"oops" not in done.stdout
    assert b"3 succeeded" in done.stderr


def test_each_line_of_each_node_arrives_while_the_command_still_runs(
    up: Up, tmp_path: Path
) -> None:
    """The command goes on only after its line was read here: a buffer anywhere would hang."""
    script = (
        f"for i in 1 2 3; do echo line $i; echo err $i >&2;"
        f" while [ ! -e {tmp_path}/gate$i ]; do sleep 0.05; done; done"
    )
    run = up.popen("run", "-t", "all", "--", script)
    assert run.stdout is not None and run.stderr is not None
    for i in (1, 2, 3):
        for stream, word in ((run.stdout, "line"), (run.stderr, "err")):
            lines = sorted(stream.readline() for _ in up.node_names())
            assert lines == [f"{name} | {word} {i}\n".encode() for name in up.node_names()]
        (tmp_path / f"gate{i}").touch()
    assert run.wait(30) == 0
    run.communicate()


def test_one_node_gives_its_bytes_unprefixed_and_its_exit_code(up: Up) -> None:
    done = up.qd("run", "-t", one(up), "--", "printf 'no newline'; exit 9")
    assert (done.returncode, done.stdout) == (9, b"no newline")
    assert b"failed, exit 9" in done.stderr


def test_death_by_signal_is_128_plus_n(up: Up) -> None:
    done = up.qd("run", "-t", one(up), "--", "kill -SEGV $$")
    assert done.returncode == 128 + signal.SIGSEGV


def test_one_failing_node_among_several_is_exit_1(up: Up) -> None:
    bad = one(up)
    marked = [node["id"] for node in up.json("nodes")["items"] if node["node"] == bad]
    text = f'case "$QD_ATTEMPT" in *-0-1) exit 3;; esac # {marked}'
    done = up.qd("run", "-t", "all", "--", text)
    assert done.returncode == 1
    assert b"1 failed" in done.stderr
    assert b"2 succeeded" in done.stderr


def test_a_timeout_is_124_and_leaves_no_process(up: Up, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f"setsid sleep 1000 & echo $! > {pids}; sleep 1000"
    done = up.qd("run", "-t", one(up), "--timeout", "1s", "--grace", "1s", "--", text)
    assert done.returncode == 124, done
    pid = int(pids.read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_one_word_is_shell_text_and_several_are_an_argv(up: Up) -> None:
    assert up.qd("run", "-t", one(up), "--", "echo $((1+1))").stdout == b"2\n"
    assert (
        up.qd("run", "-t", one(up), "--", "echo", "$((1+1))", "a  b").stdout == b"$((1+1)) a  b\n"
    )


def test_a_script_file_is_sent_with_arguments_environment_directory_and_stdin(
    up: Up, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text('#!/usr/bin/env -S sh -eu\necho "$1|$2|$KEY|$(pwd)"; cat\n')
    stdin = tmp_path / "stdin"
    stdin.write_bytes(b"\x00\xff bytes")
    done = up.qd(
        "run", "-t", one(up), "--script", str(script), "-e", "KEY=a=b c", "--cwd", "/usr",
        "--stdin", str(stdin), "--", "x y", "z",
    )  # fmt: skip
    assert done.stdout == b"x y|z|a=b c|/usr\n\x00\xff bytes"


def test_ctrl_c_once_cancels_and_waits(up: Up) -> None:
    run = up.popen("run", "-t", one(up), "--", "echo up; sleep 1000")
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130, (out, err)
    assert b"cancelling" in err
    latest = up.json("runs", "-n", "1")["items"][0]
    assert latest["outcome"] == "cancelled"


def test_ctrl_c_twice_detaches_and_says_how_to_follow(up: Up) -> None:
    text = "trap 'echo stopping; sleep 3; exit 4' TERM; echo up; while :; do sleep 0.1; done"
    run = up.popen("run", "-t", one(up), "--grace", "20s", "--", text)
    assert run.stdout is not None and run.stderr is not None
    assert run.stdout.readline() == b"up\n"
    run.send_signal(signal.SIGINT)
    assert run.stdout.readline() == b"stopping\n"
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert b"qd watch" in err
    latest = up.json("runs", "-n", "1")["items"][0]["id"]
    assert up.ended(latest)["outcome"] == "cancelled"


def test_cancel_twice_kills_what_ignores_term(up: Up) -> None:
    run = up.detach(one(up), "--grace", "1h", "--", "trap '' TERM; while :; do sleep 0.1; done")
    wait_for("running", lambda: up.api(f"/v1/runs/{run}")["tasks"][0]["state"] == "running")
    assert up.qd("cancel", run).returncode == 0
    assert up.qd("cancel", run).returncode == 0
    task = up.ended(run)["tasks"][0]
    assert task["outcome"] == "cancelled"
    assert task["attempts"][0]["signal"] == signal.SIGKILL


def test_events_are_json_lines_as_the_contract_says(up: Up) -> None:
    done = up.qd("run", "--json", "-t", one(up), "--", "printf 'a\\377b'; echo text >&2; exit 2")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert lines[0]["type"] == "run" and lines[0]["id"]
    outputs = {line["stream"]: line for line in lines if line["type"] == "output"}
    assert outputs["stdout"]["data_b64"] == "Yf9i"
    assert outputs["stderr"]["data"] == "text\n" and outputs["stderr"]["offset"] == 0
    task = next(line for line in lines if line["type"] == "task")
    assert (task["node"], task["outcome"], task["exit_code"]) == (one(up), "failed", 2)
    assert lines[-1]["type"] == "ended" and lines[-1]["counts"]["failed"] == 1


def test_the_streams_of_a_run_keep_their_order_when_read_later(up: Up) -> None:
    text = "for i in 1 2 3; do echo out $i; sleep 0.05; echo err $i >&2; sleep 0.05; done"
    run = up.detach(one(up), "--", text)
    up.ended(run)
    done = up.qd("logs", run, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["data"] for event in events] == [
        f"{kind} {i}\n" for i in (1, 2, 3) for kind in ("out", "err")
    ]


def test_logs_give_ranges_and_last_lines(up: Up) -> None:
    run = up.detach(one(up), "--", "seq 1 1000; printf last")
    up.ended(run)
    assert up.qd("logs", run, "-n", "3").stdout == b"999\n1000\nlast"
    ranged = up.qd("logs", run, "--raw", "--stream", "stdout", "--offset", "2", "--length", "4")
    assert ranged.stdout == b"2\n3\n"


def test_logs_can_be_read_while_the_run_goes_on(up: Up) -> None:
    run = up.detach(one(up), "--", "echo first; sleep 1000")
    wait_for("first line", lambda: up.qd("logs", run).stdout == b"first\n")
    assert up.qd("logs", run, "--raw", "--stream", "stdout").stdout == b"first\n"
    up.qd("cancel", run)
    assert up.ended(run)["outcome"] == "cancelled"


def test_watch_shows_a_run_from_its_beginning(up: Up) -> None:
    run = up.detach("all", "--", "echo early; sleep 0.5; echo late")
    done = up.qd("watch", run)
    assert done.returncode == 0
    assert done.stdout.count(b"early") == 3 and done.stdout.count(b"late") == 3


def test_a_run_is_found_by_the_beginning_of_its_id_and_as_last(up: Up) -> None:
    run = up.detach(one(up), "--", "true")
    assert up.ended("last")["id"] == run
    assert up.json("show", run[:14])["id"] == run


def test_an_unknown_target_is_a_sentence_that_suggests_names(up: Up) -> None:
    done = up.qd("run", "-t", one(up) + "x", "--", "true")
    assert done.returncode == 2
    assert b"hits no node. No node is named" in done.stderr
    assert b"Did you mean" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_target_that_cannot_be_read_names_the_position(up: Up) -> None:
    done = up.qd("run", "-t", "all & (", "--", "true")
    assert done.returncode == 2
    assert b"position" in done.stderr


def test_what_runs_in_a_task_knows_its_run_and_not_our_secrets(up: Up) -> None:
    done = up.qd("run", "-t", one(up), "--", "env | grep ^QD_ | sort")
    names = [line.split(b"=")[0] for line in done.stdout.splitlines()]
    assert names == [b"QD_ATTEMPT", b"QD_RUN_ID"]


def test_a_background_child_survives_its_task_unless_told_otherwise(up: Up, tmp_path: Path) -> None:
    for leftovers, alive in (("keep", True), ("kill", False)):
        path = tmp_path / leftovers
        text = f"setsid sleep 300 > /dev/null 2>&1 & echo $! > {path}"
        done = up.qd("run", "-t", one(up), "--leftovers", leftovers, "--", text)
        assert done.returncode == 0
        pid = int(path.read_text())
        assert Path(f"/proc/{pid}").exists() is alive
        if alive:
            os.kill(pid, signal.SIGKILL)


def test_many_runs_at_once_all_come_back(up: Up) -> None:
    runs = [up.popen("run", "-t", "all", "--", f"echo {n}") for n in range(8)]
    for number, run in enumerate(runs):
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
        assert out.count(f"| {number}\n".encode()) == 3


def test_no_output_of_a_node_steers_the_terminal(up: Up) -> None:
    try:
        primary, secondary = pty.openpty()
    except OSError as error:
        pytest.skip(f"this machine has no pseudo terminals ({error}): mount devpts on /dev/pts")
    run = subprocess.Popen(
        [
            QD,
            "run",
            "-t",
            one(up),
            "--",
            r"printf '\033]0;owned\007\033[2Jx\033[31mred\n'",
        ],
        env=up.env,
        stdin=subprocess.DEVNULL,
        stdout=secondary,
        stderr=subprocess.DEVNULL,
    )
    os.close(secondary)
    assert run.wait(30) == 0
    shown = os.read(primary, 65536)
    os.close(primary)
    assert b"\x1b[31mred" in shown
    assert b"\x1b]0;" not in shown and b"\x1b[2J" not in shown
