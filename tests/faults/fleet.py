"""Several servers on one PostgreSQL and one fabric, with real agents: started, hurt, asked."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from quarterdeck.core.access import spell
from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.identity import Authority
from tests.contracts.postgres_server import free_port, serving
from tests.e2e.up import QD, wait_for

API = spell("api", "0" * 16, b"a" * 20)
JOIN = spell("join", "1" * 16, b"j" * 20)
ASK_S = 3.0
STOP_S = 20.0
CUT = (OSError, http.client.HTTPException)
"""What a server that is killed leaves of an answer, at whatever point of it."""


class Member:
    """One process of the fleet (`qd server` or `qd agent`), started again with the same words."""

    def __init__(self, name: str, words: list[str], log: Path) -> None:
        self.name = name
        self._words = words
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [QD, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        if self.process is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Fleet:
    """Servers and agents below one directory."""

    def __init__(self, root: Path, database: str, fabric_url: str, *, servers: int, agents: int):
        self.root = root
        ports = [free_port() for _ in range(servers)]
        self.urls = {f"s{n}": f"http://127.0.0.1:{port}" for n, port in enumerate(ports)}
        self.servers = {
            f"s{n}": self._server(f"s{n}", port, database, fabric_url)
            for n, port in enumerate(ports)
        }
        self.agents = {f"a{n}": self._agent(f"a{n}") for n in range(agents)}

    def start(self) -> None:
        for member in [*self.servers.values(), *self.agents.values()]:
            member.start()
        self.wait_ready()

    def stop(self) -> None:
        for member in [*self.agents.values(), *self.servers.values()]:
            member.send(signal.SIGCONT)
            member.send(signal.SIGTERM)
        for member in [*self.agents.values(), *self.servers.values()]:
            member.stop()

    def wait_ready(self) -> None:
        """Every server answers and has every agent."""
        for name in self.servers:
            wait_for(f"{name} with all agents", partial(self._all_ready, name), 60)

    def ask(
        self, server: str, path: str, body: object = None, *, key: str = "", within_s: float = ASK_S
    ) -> Any:
        """The decoded answer, or None when this server does not answer (in time)."""
        headers = {"Authorization": f"Bearer {API}", "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.urls[server] + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=within_s) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error, contextlib.suppress(*CUT):
                self._refused(error.code, error.read())
        except CUT:
            pass
        return None

    def _refused(self, status: int, problem: bytes) -> None:
        assert status == 503, problem

    def bytes_of(self, path: str) -> bytes | None:
        """Output, from whichever server gives all of it."""
        for url in self.urls.values():
            request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {API}"})
            try:
                with urllib.request.urlopen(request, timeout=ASK_S) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                with error, contextlib.suppress(*CUT):
                    self._refused(error.code, error.read())
            except CUT:
                continue
        return None

    def anybody(
        self, chance: random.Random, path: str, body: object = None, *, key: str = ""
    ) -> Any:
        """An answer of any server, asked until one gives it."""

        def ask() -> Any:
            return self.ask(chance.choice(list(self.urls)), path, body, key=key)

        return wait_for(f"an answer to {path}", ask, 120)

    def logs(self) -> str:
        members = [*self.servers.values(), *self.agents.values()]
        return "\n".join(f"== {m.name}\n{m.log()[-3000:]}" for m in members)

    def _all_ready(self, server: str) -> bool:
        found = self.ask(server, "/v1/nodes")
        ready = [node for node in (found or {"items": []})["items"] if node["state"] == "ready"]
        return len(ready) == len(self.agents)

    def _server(self, name: str, port: int, database: str, fabric_url: str) -> Member:
        data = self.root / name
        data.mkdir()
        (data / "tokens").write_text(f"{API}\n{JOIN}\n")
        settings = {
            "data": str(data),
            "database": database,
            "listen": f"127.0.0.1:{port}",
            "fabric_url": fabric_url,
            "keys": str(self.root / "keys"),
            "archive": str(self.root / "archive"),
        }
        return self._member(name, "server", settings)

    def _agent(self, name: str) -> Member:
        settings = {
            "state": str(self.root / name),
            "join": self.urls["s0"],
            "token": JOIN,
            "name": name,
            "heartbeat_s": 1.0,
        }
        return self._member(name, "agent", settings)

    def _member(self, name: str, kind: str, settings: dict[str, Any]) -> Member:
        config = self.root / f"{name}.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        config.write_text("\n".join(lines) + "\n")
        return Member(name, [kind, "--config", str(config)], self.root / f"{name}.log")


@contextlib.contextmanager
def fleet(root: Path, *, servers: int = 3, agents: int = 3) -> Iterator[Fleet]:
    """A running fleet with its PostgreSQL and its fabric; all of it is gone afterwards."""
    root.mkdir()
    with serving() as postgres:
        fabric = EmbeddedFabric(root / "fabric", Authority.open(root / "keys"))
        process = fabric.spawn()
        try:
            asyncio.run(fabric.wait_ready(STOP_S))
            made = Fleet(root, postgres.fresh(), fabric.url, servers=servers, agents=agents)
            try:
                made.start()
                yield made
            finally:
                made.stop()
        finally:
            process.terminate()
            process.wait(STOP_S)
            fabric.close()
