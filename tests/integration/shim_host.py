"""A host for tests of the shim: a real spawner, real attempt directories, and a count of leaks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from quarterdeck.agent.shim import cgroup, disk, files, linux, tree

T = TypeVar("T")
DEADLINE_S = 20.0

# A tree made to escape: daemons in their own sessions, deaf to TERM; one that forks and exits for
# ever, so that it never has the same pid; one that replaces every child that is killed.
ESCAPISTS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def daemon(body):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            body()
            os._exit(0)
        os._exit(0)
def rest():
    while True: time.sleep(60)
def hop():
    while True:
        if os.fork(): os._exit(0)
def replace():
    while True:
        if os.fork() == 0: rest()
        os.wait()
for body in (rest, rest, hop, replace): daemon(body)
if os.fork() == 0: rest()
print("up", flush=True)
rest()
"""


def wait_for(look: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Look again and again until the answer is true."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < give_up_at, f"waited {deadline_s} s in vain for {what}"
        select.select((), (), (), 0.004)


def marked(attempt: str) -> list[tree.Process]:
    """The living processes that carry an attempt's mark."""
    mark = f"QD_ATTEMPT={attempt}".encode()
    found = []
    for process in tree.processes():
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if process.living and mark in environ.split(b"\0"):
            found.append(process)
    return found


def gone(pid: int, ticks: int) -> bool:
    """Whether a process has ended; as a zombie, too."""
    process = tree.read_process(pid)
    return process is None or process.ticks != ticks or not process.living


def kill_survivors(attempt: str) -> int:
    """Kill all that carries an attempt's mark; how many there were."""
    found = marked(attempt)
    for process in found:
        tree.signal_process(process.pid, process.ticks, signal.SIGKILL)
    wait_for(lambda: not marked(attempt), "end of the survivors")
    return len(found)


class Attempt:
    """One attempt's directory and shim, as the agent would see it."""

    def __init__(self, name: str, folder: Path, shim: tuple[int, int]) -> None:
        self.id = name
        self.folder = folder
        self.shim = shim

    def exit(self, deadline_s: float = DEADLINE_S) -> files.Exit:
        """Wait for the end; the shim must then go, unless it watches what could not be killed, and
        the files must be what the exit says."""
        end = wait_for(lambda: files.read_exit(self.folder), f"exit of {self.id}", deadline_s)
        if not end.kill_failed:
            wait_for(lambda: not self.shim_alive(), "end of the shim")
        for name, part in end.streams.items():
            data = self.read(name)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (part.bytes, part.sha256)
        assert not (self.folder / "crash").exists()
        return end

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def has(self, name: str, text: bytes) -> bool:
        try:
            return text in self.read(name)
        except FileNotFoundError:
            return False

    def says(self, text: bytes, stream: str = "stdout") -> None:
        """Wait until the output has this text."""
        wait_for(lambda: self.has(stream, text), f"{text!r} on {stream}")

    def started(self) -> files.Started:
        return wait_for(lambda: files.read_started(self.folder), "started")

    def stop(self, count: int = 1, number: int = signal.SIGTERM, grace_s: float = 10.0) -> None:
        """What the agent does to stop an attempt."""
        stop = files.Stop(count, number, "cancelled", grace_s)
        disk.write_json(self.folder / "stop", files.stop_json(stop))
        tree.signal_process(*self.shim, signal.SIGUSR1)

    def shim_alive(self) -> bool:
        return not gone(*self.shim)

    def blocked(self) -> bool:
        return linux.is_blocked(self.shim[0])

    def kill_shim(self) -> None:
        assert tree.signal_process(*self.shim, signal.SIGKILL)
        wait_for(lambda: not self.shim_alive(), "death of the shim")

    def lock_free(self) -> bool:
        fd = os.open(self.folder / "lock", os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True


class Host:
    """A state directory with a spawner."""

    def __init__(self, root: Path, *, cgroups: bool = True) -> None:
        self.root = root
        (root / "attempts").mkdir(parents=True, exist_ok=True)
        (root / "contact").touch()
        self.link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(DEADLINE_S)
        fd = other.fileno()
        command = [sys.executable, "-I", "-m", "quarterdeck.agent.spawner", "--fd", str(fd)]
        self.spawner = subprocess.Popen(
            command + ([] if cgroups else ["--no-cgroup"]), pass_fds=(fd,), cwd=root
        )
        other.close()
        self.attempts: list[Attempt] = []
        self._messages = 0

    def prepare(self, *, root: Path | None = None, **fields: Any) -> tuple[str, Path]:
        """An attempt's directory with its order, as the agent accepts it."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        folder = (root or self.root) / "attempts" / name
        folder.mkdir(mode=0o700, parents=True)
        environ: Mapping[str, str] = {
            "PATH": os.environ["PATH"],
            "QD_ATTEMPT": name,
            **fields.pop("environ", {}),
        }
        values: dict[str, Any] = {
            "attempt": name,
            "run": "r-1",
            "argv": None,
            "script": None,
            "args": (),
            "cwd": None,
            "stdin": None,
        }
        order = files.Order(**{**values, **fields, "environ": environ})
        disk.write_json(folder / "order", files.order_json(order))
        return name, folder

    def ask(self, message: Any, *fds: int) -> dict[str, Any]:
        """One message to the spawner and its answer."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.send_fds(self.link, [data], list(fds))
        answer = json.loads(self.link.recv(65536))
        assert isinstance(answer, dict)
        return answer

    def fork(self, name: str, folder: Path) -> dict[str, Any]:
        """Lock a prepared directory and have a shim forked for it."""
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._messages += 1
            answer = self.ask({"id": self._messages, "dir": str(folder)}, lock)
            assert answer["id"] == self._messages
        finally:
            os.close(lock)
        if "pid" in answer:
            self.attempts.append(Attempt(name, folder, (answer["pid"], answer["ticks"])))
        return answer

    def start(self, **fields: Any) -> Attempt:
        """Prepare and start an attempt."""
        answer = self.fork(*self.prepare(**fields))
        assert "pid" in answer, answer
        return self.attempts[-1]

    def sh(self, text: str, *args: str, **fields: Any) -> Attempt:
        return self.start(argv=("/bin/sh", "-c", text, "sh", *args), **fields)

    def python(self, text: str, *args: str, **fields: Any) -> Attempt:
        return self.start(argv=(sys.executable, "-I", "-S", "-c", text, *args), **fields)

    def close(self) -> None:
        """End the spawner; whatever a test left running is killed, and fails it."""
        self.link.close()
        self.spawner.wait(DEADLINE_S)
        leaks = []
        for attempt in self.attempts:
            if attempt.shim_alive():
                leaks.append(f"shim of {attempt.id}")
                tree.signal_process(*attempt.shim, signal.SIGKILL)
            for process in marked(attempt.id):
                leaks.append(f"{process.pid} of {attempt.id}")
                tree.signal_process(process.pid, process.ticks, signal.SIGKILL)
            started = files.read_started(attempt.folder)
            if started is not None and started.cgroup is not None:
                cgroup.remove(started.cgroup)  # where survivors were, the shim had to leave it
        assert not leaks, f"leaked: {leaks}"
