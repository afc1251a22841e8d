"""One nats-server as a child process on a data directory: configure, start, look after.

The supervisor calls `prepare`, then `spawn` (from the main thread, again whenever the child has
exited), then awaits `wait_ready`. The directory is locked by the supervisor *and* by the child,
which inherits the lock: after a kill -9 of the supervisor no one else gets the directory before
the child, told by PR_SET_PDEATHSIG, has ended too.

A full disk (measured with 2.15.1 on a tmpfs): the stream that could not write is dead until the
server restarts, also when space is back. Publishes to it get *no* answer and purges fail with
"no space left on device"; it can still be read, other streams go on until they too fail to write.
/healthz says 503 "write error"; `js-enabled-only` stays 200. After a restart with space everything
acknowledged is there. So: wait for space, then restart (`storage_disabled` tells when).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from quarterdeck.errors import Conflict, Unavailable
from quarterdeck.fabric.child import check_port, die_with_parent, find_binary
from quarterdeck.fabric.identity import Authority
from quarterdeck.service import free_bytes, lock_directory, write_private
from quarterdeck.settings import join_listen, reachable_host

_POLL_S = 0.01
_LOG_LIMIT = 16 << 20
_LOG_FILES = 3
_SPACE_TO_START = 16 << 20


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What JetStream may use.

    The limits of all streams are *reserved* in `file_bytes`: with nats-server's default, 3/4 of
    the space free at its start, a small disk would refuse to make the streams at all. Real
    shortage is handled by the streams' own limits and by `storage_disabled`. `memory_bytes` bounds
    in the same way the windows of traces, one for each namespace that has some.
    """

    memory_bytes: int = 16 << 30
    file_bytes: int = 1 << 40
    sync_interval_s: float = 1.0


class Health(msgspec.Struct, frozen=True):
    """An answer of /healthz: HTTP status, and its sentence when that is not 200."""

    status: int
    error: str = ""


class WebSocket(msgspec.Struct, frozen=True, kw_only=True):
    """A further listener, for the same protocol inside WebSockets; port and `tls` as of the first
    one."""

    host: str = "127.0.0.1"
    port: int = 0
    tls: Path | None = None


class EmbeddedFabric:
    """A nats-server of ours on `directory`. Not for several event loops or threads."""

    def __init__(
        self,
        directory: Path,
        authority: Authority | None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        max_payload: int = 8 << 20,
        limits: StoreLimits | None = None,
        binary: str = "",
        name: str = "quarterdeck",
        tls: Path | None = None,
        websocket: WebSocket | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """`port` 0 = chosen at the first start and kept. `tls` is a PEM file with key and
        certificates. `extra`: further keys of the configuration."""
        self._directory = directory
        self._authority = authority
        self._host = host
        self._port = port
        self._max_payload = max_payload
        self._limits = limits or StoreLimits()
        self._binary = binary
        self._name = name
        self._tls = tls
        self._websocket = websocket
        self._websocket_port = websocket.port if websocket else 0
        self._extra = extra or {}
        self._lock: int | None = None
        self._monitor = ""
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect; the port is known after the first `wait_ready`."""
        place = join_listen(reachable_host(self._host), self._port)
        return f"{'tls' if self._tls else 'nats'}://{place}"

    @property
    def websocket_url(self) -> str:
        """Where this machine reaches the WebSocket, once started; empty without one."""
        if self._websocket is None:
            return ""
        place = join_listen(reachable_host(self._websocket.host), self._websocket_port)
        return f"{'wss' if self._websocket.tls else 'ws'}://{place}"

    @property
    def pid(self) -> int | None:
        """Of the last child spawned, which may have ended."""
        return self._process.pid if self._process else None

    def prepare(self) -> None:
        """Lock the directory and find the binary. Raises `Conflict` or `Unavailable`."""
        self._binary = find_binary(self._binary)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            if self._port == 0:
                self._port = _kept_port(self._directory / "port")
            if self._websocket_port == 0:
                self._websocket_port = _kept_port(self._directory / "websocket-port")
            self._check_ports()
            self._write_config()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the directory back (once the child has ended). May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        self._lock = lock_directory(self._directory)
        if self._lock is None:
            raise Conflict(
                "fabric_directory_in_use",
                f"Another quarterdeck uses {self._directory}: stop it first, "
                "or name another directory.",
            )

    def _check_ports(self) -> None:
        check_port(self._host, self._port)
        if self._websocket is not None:
            check_port(self._websocket.host, self._websocket_port)

    def _check_space(self) -> None:
        free = free_bytes(self._directory)
        if free < _SPACE_TO_START:
            raise Unavailable(
                "fabric_disk_full",
                f"The disk of {self._directory} has only {free >> 20} MiB left: free at least "
                f"{_SPACE_TO_START >> 20} MiB, then the fabric starts.",
            )

    def _write_config(self) -> None:
        root = self._directory.resolve()
        config = {
            "server_name": self._name,
            "listen": join_listen(self._host, self._port or -1),
            "http": "127.0.0.1:-1",
            "ports_file_dir": str(root),
            "max_payload": self._max_payload,
            "log_file": str(root / "nats.log"),
            "log_size_limit": _LOG_LIMIT,
            "logfile_max_num": _LOG_FILES,
            **self._role(root),
            **self._extra,
        }
        if self._tls is not None:
            # present nodes must not be cut by a slow handshake of many at once
            file = str(self._tls.resolve())
            config["tls"] = {"cert_file": file, "key_file": file, "timeout": 10}
        if self._websocket is not None:
            config |= self._websocket_config(self._websocket)
        text = msgspec.json.format(msgspec.json.encode(config))
        write_private(self._directory / "nats.json", text)

    def _role(self, root: Path) -> dict[str, Any]:
        """Whom it knows, and what it keeps."""
        authority, limits = self._authority, self._limits
        assert authority is not None  # a leaf has none, and a role of its own
        return {
            "jetstream": {
                "store_dir": str(root / "jetstream"),
                "sync_interval": f"{int(limits.sync_interval_s * 1000)}ms",
                "max_memory_store": limits.memory_bytes,
                "max_file_store": limits.file_bytes,
            },
            "operator": authority.operator_jwt,
            "system_account": authority.system_account,
            "resolver": {
                "type": "full",
                "dir": str(root / "jwt"),
                "allow_delete": False,
            },
            "resolver_preload": {
                authority.account: authority.account_jwt,
                authority.system_account: authority.system_account_jwt,
            },
        }

    def _websocket_config(self, websocket: WebSocket) -> dict[str, Any]:
        """Also leaf nodes come in by it, to the path /leafnode below any other; nats-server wants
        them to have a port of their own besides."""
        listen: dict[str, Any] = {
            "listen": join_listen(websocket.host, self._websocket_port or -1),
            "handshake_timeout": "10s",
        }
        if websocket.tls is None:
            listen["no_tls"] = True
        else:
            file = str(websocket.tls.resolve())
            listen["tls"] = {"cert_file": file, "key_file": file, "timeout": 10}
        return {"websocket": listen, "leafnodes": {"listen": "127.0.0.1:-1"}}

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the child. From the main thread: the death signal follows the forking *thread*."""
        if self._lock is None:
            self.prepare()
        assert self._lock is not None
        self._check_ports()
        self._check_space()
        self._write_config()
        for stale in self._directory.glob("*.ports"):
            stale.unlink()
        self._monitor = ""
        log = self._directory / "nats.log"
        self._log_start = log.stat().st_size if log.exists() else 0
        with (self._directory / "nats.out").open("wb") as out:
            self._process = subprocess.Popen(
                [self._binary, "-c", str(self._directory / "nats.json")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._lock,),
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - it calls nothing that locks
            )
        return self._process

    def reload(self) -> None:
        """Tell the child that its certificate was renewed; links stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Until clients and JetStream are served. Raises `Unavailable` with the FATAL line."""
        process = self._process
        if process is None:
            raise Unavailable("fabric_not_started", "The fabric has not been started.")
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._read_ports(process.pid) and await self._healthy()):
                    if process.poll() is not None:
                        raise Unavailable(
                            "fabric_ended",
                            f"The nats-server ended with status {process.returncode}: "
                            f"{self.last_fatal() or 'look at ' + str(self._directory)}",
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise Unavailable(
                "fabric_not_ready",
                f"The nats-server was not ready within {timeout_s:g} s: "
                f"look at {self._directory / 'nats.log'}.",
            ) from error

    def _read_ports(self, pid: int) -> bool:
        if self._monitor:
            return True
        for path in self._directory.glob(f"*_{pid}.ports"):
            with contextlib.suppress(msgspec.DecodeError, KeyError, IndexError, OSError):
                ports = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
                self._port = urlsplit(ports["nats"][0]).port or 0
                write_private(self._directory / "port", str(self._port).encode())
                if self._websocket is not None:
                    self._websocket_port = urlsplit(ports["websocket"][0]).port or 0
                    kept = self._directory / "websocket-port"
                    write_private(kept, str(self._websocket_port).encode())
                self._monitor = ports["monitoring"][0]
                return True
        return False

    async def _healthy(self) -> bool:
        return (await self.healthz()).status == 200

    async def healthz(self, js_enabled_only: bool = False) -> Health:
        """Ask the child how it is; status 0 when it does not answer."""
        if not self._monitor and not (self._process and self._read_ports(self._process.pid)):
            return Health(0, "The fabric has not said where its monitor is.")
        address = urlsplit(self._monitor)
        query = "?js-enabled-only=true" if js_enabled_only else ""
        request = f"GET /healthz{query} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n"
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                writer.write(request.encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                status = int(head.split(None, 2)[1])
                answer = msgspec.json.decode(body, type=dict[str, Any])
        except (OSError, TimeoutError, ValueError, IndexError) as error:
            return Health(0, f"The fabric's monitor does not answer: {error}")
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        return Health(status, str(answer.get("error", "")))

    async def storage_disabled(self) -> bool:
        """Whether the child runs but a stream (or all of JetStream) is off until a restart."""
        health = await self.healthz()
        if health.status == 503 and "write error" in health.error:
            return True
        return (await self.healthz(js_enabled_only=True)).status == 503

    def last_fatal(self) -> str:
        """Why the child would not run, as a sentence; empty when it said nothing."""
        for name, start in (("nats.log", self._log_start), ("nats.out", 0)):
            with contextlib.suppress(FileNotFoundError):
                with (self._directory / name).open("rb") as file:
                    file.seek(start)
                    lines = file.read(1 << 20).decode(errors="replace").splitlines()
                for line in reversed(lines):
                    if "[FTL]" in line:
                        return line.partition("[FTL]")[2].strip().rstrip(".") + "."
                    if line.startswith("nats-server: "):
                        return line.removeprefix("nats-server: ").strip().rstrip(".") + "."
        return ""


def _kept_port(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        kept = int(file.read_text())
        return kept if 0 < kept < 65536 else 0
    return 0
