"""The guide's "Several servers", followed step by step with its own files (operating.md)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.postgres_server import free_port, serving
from tests.e2e.up import QD, wait_for
from tests.faults.fleet import Member

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "operating.md"


class Followed:
    """The fleet of the guide on one machine: what it calls a path is one below `root`."""

    def __init__(self, root: Path, database: str) -> None:
        self.root = root
        self._database = database
        self.fabric_port = free_port()
        self.ports = {name: free_port() for name in ("one", "two")}
        (root / "logs").mkdir()
        self.members: dict[str, Member] = {}

    def settings_of(self, file: str, **changed: str) -> dict[str, Any]:
        """What the guide writes into a file, with addresses and paths of here."""
        found = re.search(rf"```toml\n# /etc/quarterdeck/{file}\n(.*?)```", GUIDE.read_text(), re.S)
        assert found is not None, f"the guide shows no {file}"
        shown = tomllib.loads(found[1])
        assert changed.keys() <= shown.keys()
        return {**shown, **changed}

    def start(self, name: str, *words: str) -> None:
        self.members[name] = Member(name, list(words), self.root / "logs" / f"{name}.log")
        self.members[name].start()

    def write(self, name: str, settings: dict[str, Any]) -> str:
        path = self.root / name
        path.write_text("".join(f"{key} = {json.dumps(v)}\n" for key, v in settings.items()))
        return str(path)

    def start_fabric(self) -> None:
        url = f"tls://127.0.0.1:{self.fabric_port}"
        settings = self.settings_of(
            "fabric.toml",
            data=str(self.root / "fabric"),
            listen=f"0.0.0.0:{self.fabric_port}",
            public_url=url,
        )
        self.start("fabric", "fabric", "--config", self.write("fabric.toml", settings))
        self.says("fabric", "is ready")

    def says(self, name: str, words: str) -> None:
        wait_for(f"{name}: {words}", lambda: words in self.members[name].log(), 30)

    def start_server(self, name: str) -> None:
        keys = self.root / name / "keys"
        shutil.copytree(self.root / "fabric" / "keys", keys)
        settings = self.settings_of(
            "server.toml",
            data=str(self.root / name / "data"),
            database=self._database,
            fabric_url=f"tls://127.0.0.1:{self.fabric_port}",
            keys=str(keys),
            archive=str(self.root / "archive"),
            listen=f"0.0.0.0:{self.ports[name]}",
        )
        config = self.write(f"{name}.toml", settings)
        self.start(name, "server", "--config", config)

    def tokens(self, server: str) -> list[str]:
        path = self.root / server / "data" / "tokens"
        wait_for(f"the tokens of {server}", path.exists, 30)
        assert path.stat().st_mode & 0o077 == 0
        return path.read_text().split()

    def qd(self, server: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """A command with the URL of one server and the API token that server `one` made."""
        url = f"https://127.0.0.1:{self.ports[server]}"
        env = {"PATH": os.environ["PATH"], "QD_URL": url, "QD_TOKEN": self.tokens("one")[0]}
        return subprocess.run([QD, *words], env=env, capture_output=True, timeout=60, check=False)

    def has_web_1(self, server: str) -> bool:
        done = self.qd(server, "nodes", "--json")
        found = [] if done.returncode else json.loads(done.stdout)["items"]
        return [node["node"] for node in found if node["state"] == "ready"] == ["web-1"]

    def stop(self) -> None:
        for member in reversed(self.members.values()):
            member.stop()


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    with serving() as postgres:
        made = Followed(tmp_path, postgres.fresh())
        try:
            yield made
        finally:
            made.stop()


def test_the_guide_to_several_servers_can_be_followed(followed: Followed) -> None:
    followed.start_fabric()
    followed.start_server("one")
    followed.start_server("two")
    join = f"https://127.0.0.1:{followed.ports['one']}"
    state = str(followed.root / "agent")
    token = followed.tokens("one")[1]
    words = ("agent", "--join", join, "--token", token, "--state", state, "--name", "web-1")
    followed.start("agent", *words)
    for server in ("one", "two"):
        wait_for(f"web-1 at {server}", partial(followed.has_web_1, server), 60)
    ran = followed.qd("two", "run", "-t", "all", "--", "echo by two")
    assert (ran.returncode, ran.stdout) == (0, b"by two\n"), (ran, followed.members["two"].log())
    followed.members["one"].kill()
    ran = followed.qd("two", "run", "-t", "all", "--", "echo without one")
    assert (ran.returncode, ran.stdout) == (0, b"without one\n"), ran
    fabric_restarts(followed)
    ran = followed.qd("two", "run", "-t", "all", "--", "echo after the fabric")
    assert (ran.returncode, ran.stdout) == (0, b"after the fabric\n"), ran
    assert "Traceback" not in "".join(member.log() for member in followed.members.values())


def fabric_restarts(followed: Followed) -> None:
    """nats-server is started again when it is killed; the directory has one `qd fabric`."""
    children = followed.root / "fabric" / "children.json"

    def nats() -> int:
        return int(json.loads(children.read_bytes())["children"].get("fabric", [0])[0])

    old = nats()
    os.kill(old, signal.SIGKILL)
    wait_for("another nats-server", lambda: nats() not in (0, old), 30)
    data = str(followed.root / "fabric")
    second = subprocess.run(
        [QD, "fabric", "--data", data], capture_output=True, timeout=30, check=False
    )
    assert second.returncode != 0 and b"in use by another" in second.stderr, second


def test_a_fabric_stops_when_told_and_leaves_nothing(followed: Followed) -> None:
    followed.start_fabric()
    fabric = followed.members["fabric"].process
    assert fabric is not None
    fabric.terminate()
    assert fabric.wait(30) == 0
    followed.start_fabric()
