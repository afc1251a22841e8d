"""tt starts the command before anything else, and imports next to nothing for it."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
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


def run_file(data: bytes, home: Path) -> int:
    """The code of a command that `tt` as one file runs."""
    file = home / "tt"
    file.write_bytes(data)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "TT_LINGER_S": "0"}
    words = [sys.executable, "-I", str(file), "-q", "--url", "http://127.0.0.1:1", "exit 7"]
    return subprocess.run(words, env=env, check=False, timeout=60).returncode


def changed(data: bytes, ending: str, change: Callable[[bytes], bytes]) -> bytes:
    """The file with all modules of one ending changed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(made, "w") as after:
        modules = [name for name in before.namelist() if name != "__main__.py"]
        assert sorted(modules) == sorted(
            name + kind for kind in ("", "c") for name in modules if name.endswith(".py")
        )
        for name in before.namelist():
            held = before.read(name)
            ours = name in modules and name.endswith(ending)
            after.writestr(name, change(held) if ours else held)
    return made.getvalue()


def test_the_python_it_was_made_with_takes_what_is_compiled_and_another_the_sources(
    tmp_path: Path,
) -> None:
    without_sources = changed(zipapp(), ".py", lambda _: b"raise SystemExit(99)")
    assert run_file(without_sources, tmp_path) == 7
    of_another = changed(zipapp(), ".pyc", lambda held: b"\x00\x00\r\n" + held[4:])
    assert run_file(of_another, tmp_path) == 7
    neither = changed(without_sources, ".pyc", lambda held: b"\x00\x00\r\n" + held[4:])
    assert run_file(neither, tmp_path) == 99


def test_it_is_the_same_whatever_is_loaded_beside_it() -> None:
    found = set()
    for seed, beside in (("1", ""), ("2", "import json, quarterdeck.core.trace; ")):
        probe = f"{beside}from quarterdeck.tt.pack import zipapp; print(hash_of(zipapp()))"
        probe = f"from hashlib import sha256\nhash_of = lambda d: sha256(d).hexdigest()\n{probe}"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        found.add(subprocess.check_output([sys.executable, "-c", probe], env=env))
    assert len(found) == 1


def test_the_file_is_the_same_each_time_and_runs_on_its_own(tmp_path: Path) -> None:
    file = tmp_path / "tt"
    file.write_bytes(zipapp())
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    assert zipapp.__wrapped__() == file.read_bytes()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TT_LINGER_S": "0"}
    words = [sys.executable, "-I", str(file), "-q", "--url", "http://127.0.0.1:1", "exit 7"]
    assert subprocess.run(words, env=env, check=False, timeout=60).returncode == 7
