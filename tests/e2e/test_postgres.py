"""A whole quarterdeck on PostgreSQL: runs, is killed, comes back, and shows the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.contracts.postgres_server import DURABLE, SECRET, PostgresServer, serving
from tests.e2e.up import Up, running, wait_for


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with serving(DURABLE) as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.fresh()


@pytest.fixture
def up(url: str, tmp_path: Path) -> Iterator[Up]:
    with running(tmp_path / "up", env={"QD_DATABASE": url}) as found:
        yield found


def logs(up: Up, run: str) -> dict[str, str]:
    """The hash of what each node's log reads as."""
    found = {}
    for name in up.node_names():
        done = up.qd("logs", run, "--raw", "--node", name)
        assert done.returncode == 0, done.stderr
        found[name] = hashlib.sha256(done.stdout).hexdigest()
    return found


def sealed(url: str, run: str) -> bool:
    """True when every attempt of a run is archived and its log recorded."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM attempts JOIN logs ON logs.attempt = attempts.id "
            "WHERE attempts.run = %s AND attempts.sealed",
            (run,),
        ).fetchone()
    return row is not None and row[0] == 3


def kill_server(up: Up) -> None:
    """kill -9 of the server child; returns when another answers."""
    old = up.ready["pids"]["server"]
    up.kill(old)
    wait_for("a new server", lambda: up.ready["pids"]["server"] not in (old, None))


def test_what_runs_on_postgres_survives_kills_of_the_server_and_of_postgres(
    up: Up, url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    noise = up.detach("all", "--", "head -c 400000 /dev/urandom | tee /proc/self/fd/2")
    assert up.ended(noise)["outcome"] == "succeeded"
    wait_for("the seals", lambda: sealed(url, noise))
    before = logs(up, noise)
    assert len(set(before.values())) == 3
    gate = tmp_path / "gate"
    script = f"echo before; while [ ! -e {gate} ]; do sleep 0.05; done; echo after"
    waiting = up.detach("all", "--", script)
    kill_server(up)
    assert logs(up, noise) == before
    server = up.ready["pids"]["server"]
    postgres.kill()
    refused = up.qd("run", "-t", "all", "--", "true")
    assert refused.returncode == 3, refused
    assert b"PostgreSQL at 127.0.0.1" in refused.stderr and b"Traceback" not in refused.stderr
    gate.touch()
    postgres.start()
    assert up.ended(waiting)["outcome"] == "succeeded"
    for name in up.node_names():
        assert up.qd("logs", waiting, "--raw", "--node", name).stdout == b"before\nafter\n"
    assert logs(up, noise) == before
    assert up.ready["pids"]["server"] == server, "one server through it all"
    assert_the_password_shows_nowhere(up)


def assert_the_password_shows_nowhere(up: Up) -> None:
    assert not (up.data / "server" / "quarterdeck.sqlite3").exists()
    text = "".join(path.read_text(errors="replace") for path in (up.data / "log").glob("*.log"))
    assert SECRET not in text and "%40ss" not in text and "Traceback" not in text
    assert (up.data / "server" / "server.toml").stat().st_mode & 0o077 == 0
    for pid in up.ready["pids"]["agents"].values():
        assert b"QD_DATABASE" not in Path(f"/proc/{pid}/environ").read_bytes()
