"""Every byte of a trace arrives, whatever is killed while it is sent: kept and ephemeral."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from quarterdeck.client.http import Connection
from quarterdeck.core.trace import Frame
from quarterdeck.wire.trace import encode_frame
from tests.contracts.postgres_server import DURABLE, serving
from tests.e2e.up import Up, running, wait_for

MIB = 1 << 20
BODY = 2 * MIB
KEPT = 48 * MIB
EPHEMERAL = 32 * MIB  # below the 64 MiB of the window


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), nodes=0) as found:
        yield found


class Sender:
    """Sends as `tt` does: from its first byte that was not acknowledged, again and again."""

    def __init__(self, up: Up, *, keep: bool) -> None:
        self._up = up
        self.key = secrets.token_hex(16)
        self.begin = {"name": "exact", "id": "web-1", "key": self.key, "keep": keep}
        self.trace = ""
        self.acked = {"stdout": 0, "stderr": 0}

    def ask(self, path: str, body: bytes) -> Any:
        """One call; None while the server is away."""
        try:
            ready = self._up.ready
            where = urlsplit(ready["url"])
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
            headers = {"Authorization": f"Bearer {ready['token']}", "Trace-Key": self.key}
            with contextlib.closing(connection):
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                found = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        if answer.status == 503:
            return None
        assert answer.status in (200, 201), found
        return found

    def start(self) -> None:
        body = json.dumps(self.begin).encode()
        found = wait_for("the begin", lambda: self.ask("/v1/traces", body))
        self.trace, self.acked = found["trace"], found["acked"]

    def send(self, stream: str, data: bytes) -> None:
        """One body from what is acknowledged; None of it may be while the server is away."""
        at = self.acked[stream]
        now_us = int(time.time() * 1e6)
        body = b"".join(
            encode_frame(Frame(stream, at + start, now_us, data[at + start : at + start + MIB]))
            for start in range(0, min(BODY, len(data) - at), MIB)
        )
        path = f"/v1/traces/{self.trace}/segments"
        self.acked = wait_for("an answer", lambda: self.ask(path, body), 60)["acked"]

    def end(self, **how: Any) -> None:
        body = json.dumps({**how, **self.acked}).encode()
        wait_for("the end", lambda: self.ask(f"/v1/traces/{self.trace}/end", body))


@pytest.mark.parametrize(("keep", "size"), [(True, KEPT), (False, EPHEMERAL)])
def test_a_server_killed_in_the_middle_costs_no_byte(up: Up, keep: bool, size: int) -> None:
    check_exact(up, keep=keep, size=size)


def test_the_same_on_postgresql(tmp_path: Path) -> None:
    with serving(DURABLE) as postgres:
        env = {"QD_DATABASE": postgres.fresh()}
        with running(tmp_path / "up", nodes=0, env=env) as up:
            check_exact(up, keep=True, size=12 * MIB)


def check_exact(up: Up, *, keep: bool, size: int) -> None:
    """Send a trace while its server is killed, and compare every byte."""
    said = {
        "stdout": random.Random(1).randbytes(size - MIB),
        "stderr": random.Random(2).randbytes(MIB),
    }
    sender = Sender(up, keep=keep)
    sender.start()
    first = up.ready["pids"]["server"]
    dying: threading.Timer | None = None
    for stream in ("stdout", "stderr"):
        while sender.acked[stream] < len(said[stream]):
            sender.send(stream, said[stream])
            if dying is None and sender.acked["stdout"] > size // 2:
                dying = threading.Timer(0.02, up.kill, [first])  # while the next body is sent
                dying.start()
    assert dying is not None
    dying.join()
    sender.end(code=0)
    wait_for("another server", lambda: up.ready["pids"]["server"] != first)
    run = up.ended(sender.trace, 60)
    assert run["outcome"] == "succeeded"
    ready = up.ready
    server = Connection(ready["url"], ready["token"])
    for stream, data in said.items():
        digest = hashlib.sha256()
        for piece in server.stream(f"/v1/runs/{sender.trace}/output", stream=stream):
            digest.update(piece)
        assert digest.hexdigest() == hashlib.sha256(data).hexdigest(), stream
    if keep:  # its pieces went with its archiving
        left = list(up.data.rglob("pieces/*"))
        assert left == []
