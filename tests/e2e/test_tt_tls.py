"""`tt` and a server that shows a certificate of its own: the token says which one to expect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.tracing import ended, output, spools, trace, traces
from tests.e2e.up import Up, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("tls"), nodes=0, listen="0.0.0.0:0") as found:
        yield found


def of_elsewhere(server: Up, home: Path, token: str) -> dict[str, str]:
    """The environment of a user who has nothing but a URL and a token."""
    known = {name: value for name, value in server.env.items() if not name.startswith("QD_")}
    here = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "TT_LINGER_S": "0"}
    return {**known, **here, "TT_URL": server.ready["url"], "TT_TOKEN": token}


def send_token(server: Up) -> str:
    return str(server.json("token", "create", "--kind", "send")["token"])


def test_the_certificate_that_the_token_names_is_trusted(server: Up, tmp_path: Path) -> None:
    assert server.ready["url"].startswith("https://")
    env = of_elsewhere(server, tmp_path, send_token(server))
    done = trace(env, "-n", "pinned", "echo out; echo err >&2; sleep 1; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert b"View URL for task output: https://" in done.stderr
    found = ended(server, "pinned")
    assert found["code"] == 3
    assert output(server, found["trace"], "stdout") == b"out\n"


def test_another_certificate_is_not(server: Up, tmp_path: Path) -> None:
    token, _, pinned = send_token(server).rpartition("_")
    assert len(pinned) == 64
    env = of_elsewhere(server, tmp_path, f"{token}_{pinned[::-1]}")
    done = trace(env, "-n", "stranger", "echo out; sleep 1; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert done.stderr.count(b"\n") == 1 and b"certificate" in done.stderr
    assert not traces(server, "stranger")
    assert len(spools(env)) <= 1
