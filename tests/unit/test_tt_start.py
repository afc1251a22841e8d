"""tt starts the command before anything else, and imports next to nothing for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from quarterdeck.tt.pack import zipapp

# what a front needs beyond what Python itself has loaded; each costs every command its time
ALLOWED = {"_signal", "_thread", "errno", "fcntl", "select", "stat", "termios", "time"}
PROBE = """
import os, sys, __future__
before = set(sys.modules)
from quarterdeck.tt import main, child
def forked():
    print(*sorted(set(sys.modules) - before), file=sys.stderr, flush=True)
    os._exit(0)
real = os.fork
def fork():
    forked()
os.fork = fork
main.run(sys.argv[1:], "tt")
"""


def imported(*words: str) -> set[str]:
    """Modules that are loaded when the command is forked."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROBE, *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return {name for name in done.stderr.split() if not name.startswith("quarterdeck")}


@pytest.mark.parametrize("words", [["true"], ["--no-pty", "-n", "x", "true"], ["--pty", "true"]])
def test_the_command_is_forked_before_anything_heavy_is_imported(words: list[str]) -> None:
    assert imported(*words) <= ALLOWED


def test_the_file_is_the_same_each_time_and_runs_on_its_own(tmp_path: Path) -> None:
    file = tmp_path / "tt"
    file.write_bytes(zipapp())
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    assert zipapp() == file.read_bytes()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TT_LINGER_S": "0"}
    words = [sys.executable, "-I", str(file), "-q", "--url", "http://127.0.0.1:1", "exit 7"]
    assert subprocess.run(words, env=env, check=False, timeout=60).returncode == 7
