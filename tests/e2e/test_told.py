"""What people are told beside what they asked for: why nothing happens, what was not sent."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from tests.e2e.up import QD, Up


def test_a_pipe_that_nobody_reads_is_told_of_and_an_empty_one_is_not(up: Up) -> None:
    command = ("run", "-t", "all", "--", "true")
    assert b"standard input is not sent" in up.qd(*command, stdin=b"x").stderr
    assert b"not sent" not in up.qd(*command).stderr
    sent = up.qd("run", "-t", "all", "--stdin", "-", "--", "cat", stdin=b"x")
    assert b"not sent" not in sent.stderr and sent.stdout.endswith(b"| x\n")


def test_a_name_that_another_node_has_is_given_with_a_warning(up: Up) -> None:
    first, second = up.node_names()[:2]
    done = up.qd("node", "rename", first, second)
    try:
        assert done.returncode == 0
        assert f"2 nodes are named {second} now" in done.stderr.decode()
    finally:
        (id,) = [n["id"] for n in up.api("/v1/nodes")["items"] if n["own_name"] == first]
        done = up.qd("node", "rename", id, "--own")
    assert done.returncode == 0 and b"are named" not in done.stderr


def test_errors_in_the_target_of_a_signal_or_a_clone_show_the_place(up: Up) -> None:
    run = up.detach("all", "--", "sleep 20")
    for words in (
        ("signal", run, "HUP", "-t", "all & gruop:x"),
        ("clone", run, "-t", "all & gruop:x"),
    ):
        done = up.qd(*words)
        assert done.returncode == 2 and done.stderr.endswith(b"  all & gruop:x\n        ^\n"), done
    up.qd("cancel", run)
    up.ended(run)


def test_a_live_run_that_waits_says_why_on_a_terminal(up: Up) -> None:
    name = up.node_names()[0]
    try:
        primary, secondary = pty.openpty()
    except OSError as error:
        pytest.skip(f"this machine has no pseudo terminals ({error}): mount devpts on /dev/pts")
    assert up.qd("node", "drain", name).returncode == 0
    run = subprocess.Popen(
        [QD, "run", "-t", name, "--", "echo done"],
        env=up.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=secondary,
    )
    os.close(secondary)
    told = b""
    while b"\n" not in told:
        told += os.read(primary, 4096)
    assert f"{name}: waits: {name} drains" in told.decode()
    assert up.qd("node", "undrain", name).returncode == 0
    out, _ = run.communicate(timeout=30)
    os.close(primary)
    assert (run.returncode, out) == (0, b"done\n")
