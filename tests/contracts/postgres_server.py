"""A real PostgreSQL for tests: made by initdb in a directory of its own, on a free loopback port.

One server serves a test session, each test gets a fresh database in it. Root can't run PostgreSQL,
so then it runs as the user `postgres` (or `nobody`). Who kills the server starts one for itself.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from quarterdeck.store.migrate import upgrade

PACKAGE = "postgresql"
DEADLINE_S = 60.0
PLENTY = 4 << 30
USER = "qd"
PASSWORD = "p%40ss-w0rd"  # as it is written in an address
SECRET = "p@ss-w0rd"
# what only durability tests need is off; nothing of it changes what a client sees
QUICK = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
DURABLE = {"autovacuum": "off"}


def programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps them off PATH, one directory for each version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(os.path.realpath(initdb)).parent


def needed() -> Path:
    """The programs; skips where they are not installed."""
    there = programs()
    if there is None:
        pytest.skip(f"needs the Debian package {PACKAGE} (initdb and postgres)")
    return there


class PostgresServer:
    """A cluster, running or not."""

    def __init__(self, settings: Mapping[str, str] = QUICK) -> None:
        self._bin = needed()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        # not below the directories of pytest: these are for one user only
        self._root = Path(tempfile.mkdtemp(prefix="qd-pg-", dir=_home(settings)))
        self._data = self._root / "data"
        self._as: dict[str, Any] = {"cwd": self._root}
        if os.geteuid() == 0:
            owner = _other_user()
            os.chown(self._root, owner.pw_uid, owner.pw_gid)
            self._as |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.port = free_port()
        self._numbers: dict[str, str] = {}
        self._made = ""
        self._init()

    def _init(self) -> None:
        secret = self._root / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o644)
        self._run(
            "initdb",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=scram-sha-256",
            f"--username={USER}",
            f"--pwfile={secret}",
            f"--pgdata={self._data}",
        )

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self._bin / program, *words],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
            **self._as,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start, and wait until it answers."""
        words = {
            **self._settings,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "60",
            "shared_buffers": "32MB",
        }
        settings = [part for key, value in words.items() for part in ("-c", f"{key}={value}")]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as,
            )
        until = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, (self._root / "log").read_text()
            assert time.monotonic() < until, "PostgreSQL did not start"

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.admin():
            return True
        return False

    def kill(self) -> None:
        """kill -9 of the server; its children notice and end by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """A fast stop (connections are cut), or an immediate one that writes nothing (SIGQUIT)."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(DEADLINE_S)
            finally:
                self._process.kill()
                self._process.wait()

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._root)

    def admin(self, name: str = "postgres") -> psycopg.Connection[Any]:
        """A connection of the superuser, each statement by itself."""
        return psycopg.connect(self.url(name), autocommit=True)

    def url(self, name: str, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{name}"

    def fresh(self, like: str = "template0") -> str:
        """The address of a new database: empty, or a copy of another that nobody uses."""
        name = f"t{len(self._numbers)}"
        self._numbers[name] = name
        with self.admin() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return self.url(name)

    def prepare(self, place: Path) -> None:
        """Give a directory of a test a database that has our tables already, copied from one:
        making them takes five times as long."""
        if not self._made:
            url = self.fresh()
            engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
            upgrade(engine)
            engine.dispose()
            self._made = url.rpartition("/")[2]
        self._numbers[str(place)] = self.fresh(self._made)

    def at(self, place: Path) -> str:
        """The address of the database that belongs to a directory of a test."""
        key = str(place)
        if key not in self._numbers:
            url = self.fresh()
            self._numbers[key] = url
        return self._numbers[key]


@contextlib.contextmanager
def serving(settings: Mapping[str, str] = QUICK) -> Iterator[PostgresServer]:
    """A running server; nothing of it is left afterwards."""
    server = PostgresServer(settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("root can't run PostgreSQL, and there is no user postgres or nobody")


def _home(settings: Mapping[str, str]) -> str | None:
    """Memory where there is plenty: making and dropping many databases keeps a busy disk long."""
    memory = Path("/dev/shm")
    if settings is QUICK and memory.is_dir():
        free = os.statvfs(memory)
        if free.f_bavail * free.f_frsize > PLENTY:
            return str(memory)
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
