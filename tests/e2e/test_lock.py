"""`qd lock` from outside: exit codes, signals, terminals, holders named, leases that are lost."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.up import QD, Up, running, wait_for

NOT_YET = 75


def held(up: Up, name: str) -> list[str]:
    return [holder["label"] for holder in up.api(f"/v1/locks/{name}")["holders"]]


def holder(up: Up, name: str, *words: str) -> subprocess.Popen[bytes]:
    """A wrapper in the background that has its slot."""
    before = up.api(f"/v1/locks/{name}")["holding"]
    made = up.popen("lock", name, *words)
    wait_for("the slot", lambda: up.api(f"/v1/locks/{name}")["holding"] > before)
    return made


def ended(process: subprocess.Popen[bytes], within_s: float = 30) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=within_s)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("exit 7",), 7),
        (("kill -9 $$",), 137),
        (("/bin/sh", "-c", "exit 3"), 3),
        (("no-such-program-here", "x"), 127),
        (("/etc/passwd", "x"), 126),
    ],
)
def test_the_exit_code_is_the_commands_own_and_the_slot_is_free_again(
    up: Up, command: tuple[str, ...], code: int
) -> None:
    assert up.qd("lock", "codes", "--", *command).returncode == code
    assert held(up, "codes") == []


def test_streams_go_straight_through(up: Up) -> None:
    done = up.qd("lock", "io", "--", "cat; echo more >&2", stdin=b"\x00\xffbytes")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x00\xffbytes", b"more\n")


def test_without_a_slot_in_time_it_leaves_with_75_and_names_who_holds_it(up: Up) -> None:
    first = holder(up, "busy", "--label", "the backup", "--", "exec sleep 60")
    for wait in ("0", "300ms"):
        done = up.qd("lock", "busy", "--wait", wait, "--", "true")
        assert done.returncode == NOT_YET
        assert b"Lock busy is held by the backup on" in done.stderr, done
    assert len(up.api("/v1/locks/busy")["waiters"]) == 0
    first.terminate()
    assert ended(first)[0] == 143


def test_who_waits_sees_its_place_and_starts_when_the_slot_is_free(up: Up) -> None:
    first = holder(up, "turn", "--label", "first", "--", "exec sleep 60")
    second = up.popen("lock", "turn", "--", "echo mine")
    wait_for("a waiter", lambda: up.api("/v1/locks/turn")["waiting"] == 1)
    listed = up.qd("locks").stdout.decode()
    assert "1 of 1" in listed and "first" in listed and "number 1" in listed
    began = time.monotonic()
    first.send_signal(signal.SIGTERM)
    assert ended(first)[0] == 143
    code, out, err = ended(second)
    assert (code, out) == (0, b"mine\n")
    assert b"number 1 of 1 in the queue; held by first on" in err
    assert time.monotonic() - began < 4, "it was woken, not found by looking again"


def test_a_different_number_of_slots_is_said(up: Up) -> None:
    first = holder(up, "many", "-n", "2", "--", "exec sleep 60")
    done = up.qd("lock", "many", "-n", "5", "--", "true")
    assert done.returncode == 0
    assert b"held with -n 2, you say -n 5" in done.stderr
    done = up.qd("lock", "many", "-n", "2", "--", "true")
    assert done.returncode == 0 and b"you say" not in done.stderr
    first.terminate()
    ended(first)
    first = holder(up, "many", "-n", "5", "--", "exec sleep 60")
    done = up.qd("lock", "many", "-n", "2", "--", "true")
    assert done.returncode == 0 and b"held with -n 5, you say -n 2" in done.stderr
    first.terminate()
    ended(first)


def test_an_interrupted_wait_leaves_no_place_in_the_queue(up: Up) -> None:
    first = holder(up, "left", "--", "exec sleep 60")
    for number in (signal.SIGINT, signal.SIGTERM):
        second = up.popen("lock", "left", "--", "true")
        wait_for("a waiter", lambda: up.api("/v1/locks/left")["waiting"] == 1)
        second.send_signal(number)
        assert ended(second)[0] == 128 + number
        assert up.api("/v1/locks/left")["waiting"] == 0
    first.terminate()
    ended(first)


def test_kill_9_of_the_wrapper_ends_its_command_and_frees_the_slot(up: Up, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 300 & echo $! > {pids}; echo $$ >> {pids}; wait"
    first = holder(up, "killed", "--", script)
    wait_for("the command", lambda: pids.exists() and len(pids.read_text().split()) == 2)
    first.kill()
    done = up.qd("lock", "killed", "--wait", "15", "--", "echo next")
    assert (done.returncode, done.stdout) == (0, b"next\n")
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists(), "the slot was free before its command had ended"
    assert b"stopping its command" in ended(first)[2]


def test_an_operator_takes_a_lock_away_and_its_command_is_stopped_first(up: Up) -> None:
    first = holder(up, "taken", "--", "trap '' TERM; while :; do sleep 1; done")
    second = up.popen("lock", "taken", "--", "echo next")
    wait_for("a waiter", lambda: up.api("/v1/locks/taken")["waiting"] == 1)
    told = up.qd("unlock", "taken", f"{os.uname().nodename}:{first.pid}")
    assert told.returncode == 0, told
    assert held(up, "taken") != [], "until it has left"
    code, _, err = ended(first)
    assert code == 137, "it did not care for TERM"
    assert b"somebody asked it to leave" in err
    assert ended(second)[:2] == (0, b"next\n")
    assert up.qd("unlock", "taken", "nobody").returncode == 5


def test_on_a_terminal_the_command_has_it_and_ctrl_c_reaches_it_once(up: Up) -> None:
    main, side = pty.openpty()
    script = "trap 'echo caught; kill $!; exit 5' INT; test -t 0 && test -t 1 && echo ready; " + (
        "sleep 60 & wait; echo not reached"
    )
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", QD, "lock", "tty", "--", script],
        env=up.env,
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    said = b""
    while b"ready" not in said:
        said += os.read(main, 1000)
    os.write(main, b"\x03")
    assert process.wait(20) == 5
    while b"caught" not in said:
        said += os.read(main, 1000)
    os.close(main)
    assert said.count(b"caught") == 1


def test_without_a_server_it_fails_or_runs_as_told(tmp_path: Path) -> None:
    words = ["lock", "x", "--url", "http://127.0.0.1:9", "--token", "t"]
    for more, code, out in (([], 3, b""), (["--if-down", "run"], 4, b"ran\n")):
        done = subprocess.run(
            [QD, *words, *more, "--", "echo ran; exit 4"],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (code, out), done


def test_a_command_is_stopped_before_a_lease_that_can_not_be_renewed_is_over(
    tmp_path: Path,
) -> None:
    """The server stands still for longer than TERM_AFTER_S; who is to keep going is only warned."""
    with running(tmp_path / "up", nodes=1) as up:
        script = "trap 'echo told; exit 9' TERM; sleep 60 & wait"
        os.mkfifo(tmp_path / "fifo")
        strict = holder(up, "strict", "--", script)
        lax = holder(up, "lax", "--keep-going", "--", f"read x < {tmp_path / 'fifo'}")
        began = time.monotonic()
        server = up.ready["pids"]["server"]
        up.kill(server, signal.SIGSTOP)
        try:
            code, out, err = ended(strict)
        finally:
            up.kill(server, signal.SIGCONT)
        assert (code, out) == (9, b"told\n") and b"can't be renewed" in err
        assert 7 < time.monotonic() - began < 18
        wait_for("a server that answers", lambda: held(up, "lax"))
        (tmp_path / "fifo").write_text("x\n")
        code, _, err = ended(lax)
        assert code == 0 and b"going on (--keep-going)" in err
