"""An agent on another machine: it joins over TLS, works, loses its link, and is removed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.machine import Machine, another_machine
from tests.e2e.up import QD, Up, running, wait_for


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    data = tmp_path_factory.mktemp("elsewhere")
    with running(data, nodes=1, listen="0.0.0.0:0") as found:
        yield found


def nodes(up: Up) -> dict[str, Any]:
    return {node["node"]: node for node in up.api("/v1/nodes")["items"]}


def port(up: Up) -> str:
    return str(up.ready["url"].rpartition(":")[2])


def test_a_server_beyond_loopback_speaks_tls_with_a_certificate_that_commands_pin(up: Up) -> None:
    ready = up.ready
    assert ready["url"].startswith("https://127.0.0.1:")
    assert ready["fabric_url"].startswith("tls://")
    assert re.fullmatch("[0-9a-f]{64}", ready["fingerprint"])
    done = up.qd("run", "-t", "all", "--", "echo over TLS")
    assert (done.returncode, done.stdout) == (0, b"over TLS\n")


def qd(*words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [QD, *words],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **env},
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_a_command_with_another_pin_or_none_sends_nothing(up: Up) -> None:
    ready = up.ready
    url, token = ready["url"], ready["token"]
    assert (
        qd("nodes", QD_URL=url, QD_TOKEN=token, QD_FINGERPRINT=ready["fingerprint"]).returncode == 0
    )
    other = qd("nodes", QD_URL=url, QD_TOKEN=token, QD_FINGERPRINT="0" * 64)
    assert other.returncode == 4
    assert b"does not show the certificate" in other.stderr
    none = qd("nodes", QD_URL=url, QD_TOKEN=token)
    assert none.returncode == 4
    assert b"not to be trusted" in none.stderr
    assert b"Traceback" not in other.stderr + none.stderr


def test_an_api_token_carries_the_pin(up: Up) -> None:
    made = up.json("token", "create", "--kind", "api", "--expires", "1h")
    assert made["token"].endswith("_" + up.ready["fingerprint"])
    assert qd("nodes", QD_URL=up.ready["url"], QD_TOKEN=made["token"]).returncode == 0
    assert up.qd("token", "revoke", made["id"]).returncode == 0
    assert qd("nodes", QD_URL=up.ready["url"], QD_TOKEN=made["token"]).returncode == 4
    listed = {kept["id"]: kept for kept in up.json("token", "list")["items"]}
    assert listed[made["id"]]["revoked_at"]
    assert made["token"] not in json.dumps(listed)


def join(up: Up, machine: Machine, token: str, state: Path, name: str) -> subprocess.Popen[bytes]:
    url = f"https://{machine.host}:{port(up)}"
    words = ("agent", "--join", url, "--token", token, "--state", str(state), "--name", name)
    return machine.popen(*words, log=state.with_suffix(".log"))


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait(30)


def test_an_agent_on_another_machine_joins_works_survives_a_cut_and_is_removed(
    up: Up, tmp_path: Path
) -> None:
    with another_machine() as (machine, missing):
        if missing:
            pytest.skip(f"a network namespace can't be made here: {missing}")
        token = up.json("token", "create", "--kind", "join")["token"]
        forged = token[:-64] + "0" * 64
        refused = join(up, machine, forged, tmp_path / "forged", "forged")
        assert refused.wait(30) == 4
        log = (tmp_path / "forged.log").read_text()
        assert "does not show the certificate" in log and "Traceback" not in log
        agent = join(up, machine, token, tmp_path / "far", "far")
        try:
            wait_for("far to be ready", lambda: nodes(up).get("far", {}).get("state") == "ready")
            done = up.qd("run", "-t", "far", "--", "echo from afar; echo err >&2")
            assert (done.returncode, done.stdout, done.stderr) == (0, b"from afar\n", b"err\n")
            survives_a_cut(up, machine, tmp_path)
            lost = up.detach("far", "--", "sleep 600 & wait")
            wait_for("the task to run", lambda: task(up, lost)["state"] == "running")
            removed = up.qd("node", "remove", "far")
            assert removed.returncode == 0, removed
            assert up.ended(lost)["outcome"] == "lost"
            assert "removed" in task(up, lost)["error"]
            wait_for(
                "far to be cut off",
                lambda: "does not admit" in (tmp_path / "far.log").read_text(),
                within_s=5,
            )
            assert "far" not in nodes(up)
            end(agent)
            agent = join(up, machine, token, tmp_path / "far", "far")
            assert agent.wait(30) == 4
            assert "removed from this fleet" in (tmp_path / "far.log").read_text()
        finally:
            end(agent)
            for pid in sleepers():
                subprocess.run(["kill", "-9", str(pid)], check=False)


def survives_a_cut(up: Up, machine: Machine, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    run = up.detach(
        "far", "--", f"echo before; until [ -e {flag} ]; do sleep 0.1; done; echo after"
    )
    wait_for("the task to run", lambda: task(up, run)["state"] == "running")
    machine.pull()
    flag.touch()
    wait_for("the cut to be seen", lambda: nodes(up)["far"]["state"] == "silent", within_s=40)
    assert task(up, run)["state"] == "running"
    machine.plug()
    assert up.ended(run, within_s=60)["outcome"] == "succeeded"
    assert up.qd("logs", run, "--raw").stdout == b"before\nafter\n"


def task(up: Up, run: str) -> dict[str, Any]:
    found: dict[str, Any] = up.api(f"/v1/runs/{run}")["tasks"][0]
    return found


def sleepers() -> list[int]:
    """What the removed node left running: nobody may end it but its own machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"sleep 600 & wait" in words or words == b"sleep\x00600\x00":
                found.append(int(entry.name))
    return found
