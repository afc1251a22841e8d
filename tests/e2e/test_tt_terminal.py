"""`tt` on a terminal: full-screen programs, sizes, keys, and the terminal given back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.tracing import TT, ended, on_terminal, output, quiet_env
from tests.e2e.up import Up, wait_for

COUNT_INTERRUPTS = """
import signal, sys
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
print("ready", flush=True)
sys.stdin.readline()
print(len(got), "interrupts", flush=True)
"""

# a handler of Python waits for the end of a call that began in the moment of the signal
TELL_SIZES = """
import os, select, signal, sys
told, tells = os.pipe()
os.set_blocking(tells, False)
signal.set_wakeup_fd(tells)
signal.signal(signal.SIGWINCH, lambda *_: None)
while True:
    print(*os.get_terminal_size(0), *map(os.isatty, range(3)), flush=True)
    if 0 in select.select([0, told], [], [])[0]: break
    os.read(told, 100)
print("said", sys.stdin.readline(), flush=True)
sys.exit(4)
"""


@pytest.fixture
def server(up: Up) -> Up:
    return up


@pytest.fixture
def env(server: Up, tmp_path: Path) -> dict[str, str]:
    return {**quiet_env(server, tmp_path), "TERM": "xterm"}


def test_the_command_has_a_terminal_of_this_ones_size_and_learns_of_changes(
    server: Up, env: dict[str, str]
) -> None:
    words = (TT, "-q", "-n", "sized", sys.executable, "-c", TELL_SIZES)
    with on_terminal(env, *words, rows=33, columns=101) as screen:
        screen.until(b"101 33 True True True")
        screen.resize(20, 70)
        screen.until(b"70 20 True True True")
        screen.press(b"something\r")
        screen.until(b"said something")
        assert screen.end() == 4
    found = ended(server, "sized")
    assert found["tty"] and found["code"] == 4
    assert b"said something\r\n" in output(server, found["trace"], "stdout")


@pytest.mark.parametrize("how", ["end", "TERM", "KILL", "keys"])
def test_the_terminal_is_given_back_on_every_end(env: dict[str, str], how: str) -> None:
    text = "stty raw -echo; echo ready; read x" if how == "keys" else "echo ready; read x; echo $x"
    with on_terminal(
        env, "/bin/sh", "-c", f"echo go; read x; {TT} -q -n back '{text}'; echo left $?; read y"
    ) as screen:
        screen.until(b"go")
        before = screen.modes()
        screen.press(b"\r")
        screen.until(b"ready")
        wait_for("the raw mode", lambda: screen.modes() != before)
        front = int(Path(f"/proc/{screen.pid}/task/{screen.pid}/children").read_text().split()[0])
        if how in ("TERM", "KILL"):
            os.kill(front, getattr(signal, f"SIG{how}"))
        else:
            screen.press(b"\r" if how == "end" else b"\n")
        code = {"end": b"left 0", "keys": b"left 0", "TERM": b"left 143", "KILL": b"left 137"}[how]
        screen.until(code)
        wait_for("the modes from before", lambda: screen.modes() == before)
        screen.press(b"\r")
        screen.end()


def test_keys_are_the_commands(env: dict[str, str]) -> None:
    words = (TT, "-q", "-n", "keys", sys.executable, "-c", COUNT_INTERRUPTS)
    with on_terminal(env, *words) as screen:
        screen.until(b"ready")
        screen.press(b"\x03")
        screen.until(b"^C")
        screen.press(b"\r")
        screen.until(b"1 interrupts")
        assert screen.end() == 0


def test_an_interrupt_in_a_pipeline_comes_once(env: dict[str, str]) -> None:
    script = (
        f"trap : INT; {TT} -q -n once {sys.executable} -c '{COUNT_INTERRUPTS}' | (trap '' INT; cat)"
    )
    with on_terminal(env, "/bin/bash", "-c", script) as screen:
        screen.until(b"ready")
        screen.press(b"\x03")
        screen.until(b"^C")
        screen.press(b"\r")
        screen.until(b"1 interrupts")
        screen.end()


def test_a_stopped_command_stops_us_and_goes_on_with_us(env: dict[str, str]) -> None:
    with on_terminal(env, "/bin/bash", "--norc", "--noprofile", "-i") as screen:
        screen.press(
            f"PS1='now: '; {TT} -q -n stopped 'echo rea\"\"dy; read x; echo got $x'\r".encode()
        )
        screen.until(b"ready")
        screen.press(b"\x1a")
        screen.until(b"Stopped")
        screen.press(b"jobs | wc -l; echo on the o''utside\r")
        screen.until(b"on the outside")
        screen.press(b"fg\r")
        screen.until(b"tt -q")
        screen.press(b"typed\r")
        screen.until(b"got typed")
        screen.until(b"now: ")
        screen.press(b"exit\r")
        screen.end()


def test_standard_error_stays_apart_when_it_leads_elsewhere(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    script = f"{TT} -n apart 'echo out; echo err >&2' 2>{tmp_path}/err"
    with on_terminal(env, "/bin/sh", "-c", script) as screen:
        screen.end()
        assert b"out" in screen.shown and b"err" not in screen.shown
    assert "err\n" in (tmp_path / "err").read_text()
    assert output(server, ended(server, "apart")["trace"], "stderr") == b"err\n"


def test_a_terminal_may_be_had_without_one_or_refused_on_one(env: dict[str, str]) -> None:
    done = subprocess.run(
        [TT, "-q", "--pty", "test -t 1 && stty size; read x; echo got $x"],
        env=env,
        input=b"word\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert b"24 80" in done.stdout and b"got word" in done.stdout
    with on_terminal(env, TT, "-q", "--no-pty", "test -t 1 || echo none") as screen:
        screen.until(b"none")
        screen.end()


def test_sentences_wait_for_the_end_of_a_full_screen_program(env: dict[str, str]) -> None:
    text = "printf '\\033[?1049h'; read x; printf 'before\\033[?1049l'; echo after"
    with on_terminal({**env, "QD_DATA": "/nonexistent", "TT_LINGER_S": "0"}, TT, text) as screen:
        screen.until(b"\x1b[?1049h")
        screen.press(b"\r")
        shown = screen.until(b"after")
        screen.end()
        assert b"tt:" not in shown.partition(b"before")[0]


EDITOR = shutil.which("vim") or shutil.which("vim.tiny")


@pytest.mark.skipif(
    not (shutil.which("tmux") and EDITOR), reason="tmux and vim (or vim-tiny) are not installed"
)
def test_an_editor_works_in_tmux(server: Up, env: dict[str, str], tmp_path: Path) -> None:
    file, code = tmp_path / "text", tmp_path / "code"

    def tmux(*words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null", *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    command = f"{TT} -n editor {EDITOR} -n -u NONE {file}; echo $? > {code}"
    tmux("new-session", "-d", "-x", "90", "-y", "25", command)
    try:
        wait_for("the editor's screen", lambda: "~" in tmux("capture-pane", "-p"))
        tmux("send-keys", "ihello from vim", "Escape")
        wait_for("what was typed", lambda: "hello from vim" in tmux("capture-pane", "-p"))
        tmux("send-keys", ":wq", "Enter")
        wait_for("the code", lambda: code.exists() and code.read_text())
    finally:
        subprocess.run(
            ["tmux", "-S", str(tmp_path / "socket"), "kill-server"],
            check=False,
            capture_output=True,
            env=env,
        )
    assert (file.read_text(), code.read_text()) == ("hello from vim\n", "0\n")
    assert b"hello from vim" in output(server, ended(server, "editor")["trace"], "stdout")
