"""A real `qd up` for tests: start it, use `qd` against it, kill parts of it, start it again."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from quarterdeck.client.http import Connection
from quarterdeck.errors import Unavailable

T = TypeVar("T")

QD = str(Path(sys.executable).with_name("qd"))
DEADLINE_S = 30.0
LOOK_S = 0.01
LOOK_SELDOM_S = 0.15


def wait_for(what: str, look: Callable[[], T | None], within_s: float = DEADLINE_S) -> T:
    """The first result that holds something; fails the test after the deadline."""
    until = time.monotonic() + within_s
    tick = _Tick()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"after {within_s:g} s still waiting for: {what}")
        tick.wait()


class _Tick:
    """A pause between two looks at the world outside, where no event reaches us. A look may be a
    request: what takes longer is looked at less often."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._pause_s = LOOK_S

    def wait(self) -> None:
        select.select([self._read], [], [], self._pause_s)
        self._pause_s = min(self._pause_s * 1.2, LOOK_SELDOM_S)

    def __del__(self) -> None:
        for fd in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(fd)


class Up:
    """One data directory with its supervisor."""

    def __init__(
        self,
        data: Path,
        *,
        nodes: int = 3,
        env: dict[str, str] | None = None,
        listen: str = "127.0.0.1:0",
    ) -> None:
        self.data = data
        self.listen = listen
        self.nodes = nodes
        self.env = {**os.environ, "QD_DATA": str(data), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Up:
        self.process = subprocess.Popen(
            [QD, "up", "--listen", self.listen, "--nodes", str(self.nodes)],
            env=self.env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        process = self.process
        assert process is not None

        def ready() -> bool:
            assert process.poll() is None, f"qd up ended with {process.returncode}: {self.logs()}"
            # one of a killed supervisor may still lie there, until the new one takes it away
            with contextlib.suppress(FileNotFoundError):
                return bool(self.ready["pid"] == process.pid)
            return False

        wait_for("ready.json", ready, 60)

    @property
    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "ready.json").read_bytes())
        return found

    def qd(
        self, *words: str, within_s: float = DEADLINE_S, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `qd` to its end."""
        return subprocess.run(
            [QD, *words],
            env=self.env,
            capture_output=True,
            timeout=within_s,
            input=stdin,
            check=False,
        )

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        """`qd` in the background, its output in pipes."""
        return subprocess.Popen(
            [QD, *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def json(self, *words: str) -> Any:
        """The one document that `qd ... --json` prints."""
        done = self.qd(*words, "--json")
        assert done.returncode == 0, (words, done)
        return json.loads(done.stdout)

    def detach(self, target: str, *words: str) -> str:
        """Start a run in the background; its id."""
        done = self.qd("run", "-t", target, "--detach", *words)
        assert done.returncode == 0, done
        return done.stdout.decode().strip()

    def ended(self, run: str, within_s: float = DEADLINE_S) -> dict[str, Any]:
        """The run once it has ended."""

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.api(f"/v1/runs/{run}", wait="5s")
            return found if found["state"] == "ended" else None

        return wait_for(f"the end of run {run}", look, within_s)

    def api(self, path: str, **query: str) -> Any:
        """An answer of the API, asked again while the server is away."""

        def ask() -> Any:
            try:
                ready = self.ready
                pin = ready.get("fingerprint", "")
                server = Connection(ready["url"], ready["token"], fingerprint=pin)
                return server.get(path, **query)
            except (Unavailable, FileNotFoundError):
                return None

        return wait_for(f"an answer to {path}", ask)

    def text(self, path: str) -> str:
        """A page of the server as text."""
        ready = self.ready
        server = Connection(ready["url"], ready["token"], fingerprint=ready.get("fingerprint", ""))
        return b"".join(server.stream(path)).decode()

    def node_names(self) -> list[str]:
        return sorted(self.ready["pids"]["agents"])

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal one of our own processes."""
        os.kill(pid, number)

    def kill_supervisor(self) -> None:
        """kill -9 of `qd up` alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def logs(self) -> str:
        parts = []
        for path in sorted((self.data / "log").glob("*.log")):
            parts.append(f"== {path.name}\n" + path.read_text(errors="replace")[-2000:])
        return "\n".join(parts)


@contextlib.contextmanager
def running(
    data: Path,
    *,
    nodes: int = 3,
    env: dict[str, str] | None = None,
    listen: str = "127.0.0.1:0",
) -> Iterator[Up]:
    """A `qd up` for the time of a block."""
    up = Up(data, nodes=nodes, env=env, listen=listen)
    try:
        yield up.start()
    finally:
        if up.process is not None:
            up.stop()
