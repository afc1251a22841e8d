"""A database that is away: `qd up` and `qd server` say so at once and go on when it is there."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.settings import Secret
from tests.contracts.postgres_server import DURABLE, PostgresServer, serving
from tests.e2e.up import QD, Up, wait_for

SAID_WITHIN_S = 12.0  # 3 s of patience or 5 s of a connection that says nothing, on a busy machine


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with serving(DURABLE) as server:
        yield server


@contextlib.contextmanager
def starting(said: Path, data: Path, url: str) -> Iterator[tuple[subprocess.Popen[bytes], Up]]:
    up = Up(data, nodes=1, env={"QD_DATABASE": url})
    with said.open("wb") as file:
        up.process = subprocess.Popen(
            [QD, "up", "--listen", "127.0.0.1:0", "--nodes", "1"],
            env=up.env,
            start_new_session=True,
            stdout=file,
            stderr=file,
        )
    try:
        yield up.process, up
    finally:
        up.stop()


def test_qd_up_says_that_postgres_is_away_and_goes_on_when_it_is_there(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url, said = postgres.fresh(), tmp_path / "said"
    postgres.kill()
    with starting(said, tmp_path / "up", url) as (process, up):
        wait_for("a sentence", lambda: "can't be reached" in said.read_text(), SAID_WITHIN_S)
        text = said.read_text()
        assert "waits for the database" in text and "PostgreSQL at 127.0.0.1" in text, text
        assert "Traceback" not in text and process.poll() is None
        postgres.start()
        up.wait_ready()
        assert up.qd("run", "-t", "all", "--", "true").returncode == 0


def test_qd_server_says_that_nothing_speaks_at_the_address_of_postgres(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it accepts and says nothing
        url = Secret(f"postgresql://u:p@127.0.0.1:{deaf.getsockname()[1]}/qd")
        words = [QD, "server", "--listen", "127.0.0.1:0", "--database", url.reveal()]
        env = {
            **os.environ,
            "QD_DATA": str(tmp_path / "server"),
            "QD_KEYS": str(tmp_path / "keys"),
            "QD_FABRIC_URL": "nats://127.0.0.1:1",
        }
        (tmp_path / "server").mkdir()
        with said.open("wb") as file:
            process = subprocess.Popen(words, env=env, stdout=file, stderr=file)
        try:
            wait_for("a sentence", lambda: "can't be reached" in said.read_text(), SAID_WITHIN_S)
            assert "PostgreSQL at 127.0.0.1" in said.read_text() and process.poll() is None
        finally:
            process.terminate()
            assert process.wait(20) is not None
    assert "Traceback" not in said.read_text()
