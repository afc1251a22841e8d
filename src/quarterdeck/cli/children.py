"""The children of `qd up`: their files, their processes, and keeping them alive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from quarterdeck.agent.process import until_gone
from quarterdeck.agent.shim.tree import boot_id, identity, signal_process
from quarterdeck.api.first import first_tokens
from quarterdeck.cli.checks import last_complaint
from quarterdeck.control.foreign.sockets import FILE as INGEST_FILE
from quarterdeck.errors import Conflict, Unavailable
from quarterdeck.service import Services, SystemClock, lock_directory, write_private
from quarterdeck.settings.environment import child_environment

OLD_CHILDREN_S = 10.0
STOP_S = 12.0
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 5.0
CALM_S = 10.0
LOG_LIMIT = 16 << 20
LOG_TICK_S = 5.0
# settings of children that `qd up` writes into their files
DECIDED = (
    "data",
    "database",
    "fabric",
    "fabric_ca",
    "fabric_url",
    "ingest",
    "ingest_namespace",
    "join",
    "keys",
    "listen",
    "name",
    "server_ca",
    "state",
    "token",
    "url",
    "websocket_url",
)


def shorten(path: Path, limit: int = LOG_LIMIT) -> None:
    """Move a log that is longer than `limit` to `.log.1`: copied and emptied, because its child
    appends to the open file and goes on in it. Lines written in between are lost."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > limit:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)


class Child(msgspec.Struct, frozen=True):
    """How to start a child: words of `qd`, or a function that spawns it and gives the pid."""

    name: str
    words: list[str] = []
    fds: tuple[int, ...] = ()
    spawn: Callable[[], int] | None = None


class Files:
    """The data directory of `qd up`: one user at a time, mode 700."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.keys = data / "keys"
        self.fabric = data / "fabric"
        self.server = data / "server"
        self.logs = data / "log"
        self._lock: int | None = None
        self.api_token = ""
        self.join_token = ""

    def agent(self, name: str) -> Path:
        return self.data / "agents" / name

    def lock(self) -> None:
        """Take the directory and see that all of `qd up` is in it. Raises as `hold` does."""
        try:
            self.hold()
            for directory in (self.server, self.logs, self.data / "agents"):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.api_token, self.join_token = first_tokens(self.server / "tokens")
        except OSError as error:
            raise self._unusable(error) from error

    def hold(self) -> None:
        """Take the directory. Raises Conflict while a live `qd up` or `qd fabric` has it,
        Unavailable when it can't be written."""
        try:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = lock_directory(self.data)
        except OSError as error:
            raise self._unusable(error) from error
        if self._lock is None:
            raise Conflict(
                "data_in_use",
                f"The data directory {self.data} is in use by another `qd up` or `qd fabric`; stop "
                "that one, or choose another --data.",
            )
        self.remove_ready()

    def _unusable(self, error: OSError) -> Unavailable:
        return Unavailable(
            "data_directory",
            f"The data directory {self.data} can't be used: {error.strerror or error}; see that "
            "it is yours and has room, or choose another --data.",
        )

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kept_port(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            port = int((self.data / "port").read_text())
            return port if 0 < port < 65536 else None
        return None

    def keep_port(self, port: int) -> None:
        write_private(self.data / "port", str(port).encode())

    def write_toml(self, path: Path, **values: str | int | float | bool) -> None:
        """A settings file for a child."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # a JSON string or number is also one of TOML
        lines = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
        ]
        write_private(path, ("\n".join(lines) + "\n").encode())

    def write_ready(
        self, url: str, fingerprint: str, fabric_url: str, pids: dict[str, int]
    ) -> None:
        agents = {n.removeprefix("agent "): p for n, p in pids.items() if n.startswith("agent ")}
        ready = {
            "url": url,
            "token": self.api_token,
            "pid": os.getpid(),
            "fabric_url": fabric_url,
            **({"fingerprint": fingerprint} if fingerprint else {}),
            **({"ingest": ingest} if (ingest := self._ingest()) else {}),
            "pids": {"server": pids.get("server"), "fabric": pids.get("fabric"), "agents": agents},
        }
        write_private(self.data / "ready.json", json.dumps(ready).encode())

    def _ingest(self) -> dict[str, str]:
        """Where the server hears senders of other tools, by protocol."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, str] = json.loads((self.server / INGEST_FILE).read_bytes())
            return found
        return {}

    def remove_ready(self) -> None:
        """Nothing is ready any more; what belongs to another `qd up` is left alone."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self.data / "ready.json").unlink()

    def note_children(self, pids: dict[str, int]) -> None:
        """Remember who was started, for the next `qd up` after a kill of this one."""
        known = {name: found for name, pid in pids.items() if (found := identity(pid))}
        write_private(
            self.data / "children.json",
            json.dumps({"boot": boot_id(), "children": known}).encode(),
        )

    async def wait_for_old_children(self) -> None:
        """Children of an earlier, killed `qd up` end by themselves; after 10 s they are killed."""
        try:
            noted = json.loads((self.data / "children.json").read_bytes())
            if noted["boot"] != boot_id():
                return
            old = [(int(pid), int(ticks)) for pid, ticks in noted["children"].values() if pid > 1]
        except (OSError, ValueError, KeyError, TypeError):
            return
        for pid, ticks in old:
            try:
                async with asyncio.timeout(OLD_CHILDREN_S):
                    await until_gone(pid, ticks)
            except TimeoutError:
                signal_process(pid, ticks, signal.SIGKILL)
                await until_gone(pid, ticks)


class Keeper:
    """Starts children and starts them again when they exit, never because they do not answer."""

    def __init__(self, files: Files, services: Services, changed: Callable[[], None]) -> None:
        self._files = files
        self._services = services
        self._changed = changed
        self._clock = SystemClock()
        self._pids: dict[str, int] = {}
        self._children: dict[str, Child] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._read_end, self._write_end = os.pipe()

    def pids(self) -> dict[str, int]:
        """The present processes by child."""
        return dict(self._pids)

    async def start(self, child: Child) -> None:
        if not self._tasks:
            self._tasks["logs"] = self._services.loop("logs", self._keep_logs_short)
        self._children[child.name] = child
        self._spawn(child)
        self._tasks[child.name] = self._services.spawn(self._keep(child), f"keep {child.name}")

    def restart(self, name: str) -> None:
        """End a child; it is started again."""
        if (pid := self._pids.get(name)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    async def stop(self) -> None:
        """TERM to agents and server together, then to the fabric."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        names = [name for name in self._pids if name != "fabric"]
        await asyncio.gather(*(self._end(name) for name in names))
        if "fabric" in self._pids:
            await self._end("fabric")
        for fd in (self._read_end, self._write_end):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _spawn(self, child: Child) -> None:
        if child.spawn is not None:
            self._pids[child.name] = child.spawn()
        else:
            self._pids[child.name] = self._popen(child).pid
        with contextlib.suppress(OSError):
            self._files.note_children(self._pids)
            self._changed()

    def _popen(self, child: Child) -> subprocess.Popen[bytes]:
        fds = (self._read_end, *child.fds)
        words = [
            sys.executable,
            "-m",
            "quarterdeck.cli.main",
            *child.words,
            "--parent-fd",
            str(self._read_end),
        ]
        with self._log(child.name) as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                env=child_environment(DECIDED),
                start_new_session=True,
            )
        self._processes[child.name] = process
        return process

    def _say_end(self, name: str) -> None:
        """Tell people why a child keeps ending: the last complaint in its log."""
        said = ""
        with contextlib.suppress(OSError):
            said, _ = last_complaint(self._log_path(name))
        told = f"qd: {name} ended at once and is started again: {said or 'it said nothing'}"
        with contextlib.suppress(OSError):
            print(told, file=sys.stderr, flush=True)

    def _log_path(self, name: str) -> Path:
        return self._files.logs / (name.replace(" ", "-") + ".log")

    async def _keep_logs_short(self) -> None:
        """Loop: a log that has grown too long goes to `.log.1`, also while its child runs. Waits
        for a tick of `LOG_TICK_S`."""
        while True:
            await asyncio.sleep(LOG_TICK_S)
            for path in self._files.logs.glob("*.log"):
                await asyncio.to_thread(shorten, path)

    def _log(self, name: str) -> IO[bytes]:
        path = self._log_path(name)
        shorten(path)
        try:
            return path.open("ab")
        except OSError:
            return open(os.devnull, "wb")

    async def _keep(self, child: Child) -> None:
        """Wait for the child's end, pause, start it again; the pause grows while it keeps dying."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = self._clock.monotonic()
            if child.name in self._pids:
                await until_gone(self._pids[child.name], None)
                self._reap(child.name)
            if self._clock.monotonic() - began > CALM_S:
                pause_s = FIRST_PAUSE_S
            elif pause_s > FIRST_PAUSE_S:
                self._say_end(child.name)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
            self._respawn(child)

    def _respawn(self, child: Child) -> None:
        try:
            self._spawn(child)
        except (OSError, Conflict, Unavailable) as error:
            print(f"qd: {child.name} can't be started: {error}", file=sys.stderr, flush=True)

    async def _end(self, name: str) -> None:
        pid = self._pids[name]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await until_gone(pid, None)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await until_gone(pid, None)
        self._reap(name)

    def _reap(self, name: str) -> None:
        """Collect a child's status; from now on its pid may be anybody's."""
        pid = self._pids.pop(name)
        process = self._processes.pop(name, None)
        if process is not None:
            process.wait()
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
