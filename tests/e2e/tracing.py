"""`tt` for tests: as a process, on a terminal of the test, and what a server has of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quarterdeck.client.http import Connection
from tests.e2e.up import Up, wait_for

TT = str(Path(sys.executable).with_name("tt"))


def quiet_env(up: Up, home: Path) -> dict[str, str]:
    """The environment of a user of whom no earlier trace is left, and who knows the server."""
    return {**up.env, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")}


def trace(
    env: dict[str, str], *words: str, stdin: bytes = b"", within_s: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """`tt` to its end."""
    return subprocess.run(
        [TT, *words], env=env, input=stdin, capture_output=True, timeout=within_s, check=False
    )


def start(env: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    """`tt` in the background, without a terminal."""
    return subprocess.Popen(
        [TT, *words],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def traces(up: Up, name: str) -> list[dict[str, Any]]:
    """What the server has under a name, newest first."""
    found: list[dict[str, Any]] = up.api("/v1/traces", name=name)["items"]
    return found


def ended(up: Up, name: str, within_s: float = 30) -> dict[str, Any]:
    """The one trace of a name once the server knows its end."""

    def look() -> dict[str, Any] | None:
        found = traces(up, name)
        return found[0] if found and found[0]["state"] == "ended" else None

    return wait_for(f"the end of trace {name}", look, within_s)


def output(up: Up, trace_id: str, stream: str) -> bytes:
    """The bytes of a stream, as `qd logs` gets them."""
    ready = up.ready
    server = Connection(ready["url"], ready["token"], fingerprint=ready.get("fingerprint", ""))
    return b"".join(server.stream(f"/v1/runs/{trace_id}/output", stream=stream))


def spools(env: dict[str, str]) -> list[Path]:
    """The files that wait to be delivered."""
    return sorted(Path(env["XDG_STATE_HOME"], "tt").glob("*.spool"))


def deliver_rest(env: dict[str, str]) -> None:
    """Traces of no interest, until all earlier ones are delivered: their senders may be leaving."""

    def delivered() -> bool:
        assert trace(env, "-q", "-n", "next", "true").returncode == 0
        return not spools(env)

    wait_for("all spools to be delivered", delivered)
    wait_for("their senders' end", lambda: not senders(env))


def senders(env: dict[str, str]) -> list[int]:
    """The processes of `tt` that keep their files where this user's are."""
    mark = b"XDG_STATE_HOME=" + env["XDG_STATE_HOME"].encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            if mark in words and b"tt" in _words(int(folder.name)):
                found.append(int(folder.name))
    return found


def sender_of(front: int) -> int:
    """The process that sends for a front; it leads a session of its own."""

    def look() -> int:
        for child in Path(f"/proc/{front}/task/{front}/children").read_text().split():
            with contextlib.suppress(OSError):
                if os.getsid(int(child)) == int(child) and b"tt" in _words(int(child)):
                    return int(child)
        return 0

    return wait_for("the sender", look)


def is_gone(pid: int) -> bool:
    """Whether a process has let go of all it had; somebody may still have to reap it."""
    try:
        return not _words(pid)
    except OSError:
        return True


def _words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class Screen:
    """A program on a terminal of the test: what it shows, and keys for it."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.shown = b""
        self.code: int | None = None

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.fd)

    def until(self, text: bytes, within_s: float = 30) -> bytes:
        """All that was shown, once `text` is in it; then forgets it."""
        deadline = time.monotonic() + within_s
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], (text, self.shown)
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                piece = b""
            assert piece, (text, self.shown)
            self.shown += piece
        found, self.shown = self.shown, b""
        return found

    def end(self, within_s: float = 30) -> int:
        """Reads until the program has ended; its code."""
        deadline = time.monotonic() + within_s
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif select.select([self.fd], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self.fd, 65536)
            assert time.monotonic() < deadline, self.shown
        return self.code


@contextlib.contextmanager
def on_terminal(
    env: dict[str, str], *words: str, rows: int = 24, columns: int = 80
) -> Iterator[Screen]:
    """A program on a new terminal that it controls."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(words[0], list(words), env)
    screen = Screen(pid, fd)
    screen.resize(rows, columns)
    try:
        yield screen
    finally:
        if screen.code is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, 9)
                os.waitpid(pid, 0)
        os.close(fd)
