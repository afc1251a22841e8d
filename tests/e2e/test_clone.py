"""X29: a state directory was copied and both machines run: no work for either, nothing twice."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

from quarterdeck.agent.settle import SETTLE_S
from tests.e2e.up import Up, running, wait_for


def state(up: Up) -> str:
    (node,) = up.api("/v1/nodes")["items"]
    return str(node["state"])


def start_copy(up: Up, copy: Path) -> subprocess.Popen[bytes]:
    (name,) = up.node_names()
    # what lies in the trash goes at any moment
    shutil.copytree(up.data / "agents" / name, copy, ignore=shutil.ignore_patterns("trash"))
    config = copy / "agent.toml"
    config.write_text(config.read_text().replace(str(up.data / "agents" / name), str(copy)))
    return up.popen("agent", "--config", str(config))


def test_two_machines_with_one_identity_are_quarantined_and_nothing_runs_twice(
    tmp_path: Path,
) -> None:
    ran = tmp_path / "ran"
    ran.touch()
    with running(tmp_path / "up", nodes=1) as up:
        (name,) = up.node_names()
        first = up.ended(up.detach(name, "--", "true"))
        assert first["outcome"] == "succeeded"
        copy = start_copy(up, tmp_path / "copy")
        try:
            runs = [
                up.detach(name, "--offline", "5m", "--", f"echo $QD_RUN_ID >> {ran}")
                for _ in range(8)
            ]
            wait_for("the quarantine", lambda: state(up) == "quarantined")
            assert "NodeCloned" in up.logs()
            late = up.detach(name, "--offline", "1s", "--", f"echo $QD_RUN_ID >> {ran}")
            assert up.ended(late)["outcome"] == "failed"
            assert late not in ran.read_text()
            up.kill(up.ready["pids"]["server"])
            wait_for("the server to be back", lambda: state(up) == "quarantined")
        finally:
            copy.kill()
            copy.communicate()
        assert up.qd("node", "remove", name).returncode == 0
        counts = Counter(ran.read_text().split())
        for run in runs:
            assert up.ended(run)["state"] == "ended"
            assert counts[run] <= 1
        assert ran.read_text().split() == list(counts)


def test_an_attempt_that_runs_on_the_original_is_not_ended_by_its_copy(tmp_path: Path) -> None:
    """The copy is on the same machine: what it declares lost it would also kill."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    with running(tmp_path / "up", nodes=1) as up:
        (name,) = up.node_names()
        command = f"echo began >> {ran}; until [ -e {go} ]; do sleep 0.1; done; echo done >> {ran}"
        run = up.detach(name, "--", command)
        wait_for("the command", ran.exists)
        copy = start_copy(up, tmp_path / "copy")
        try:
            wait_for("the quarantine", lambda: state(up) == "quarantined")
            end_settling = time.monotonic() + 2 * SETTLE_S
            wait_for("the copy to settle", lambda: time.monotonic() > end_settling)
            go.touch()
            wait_for("the end of the command", lambda: "done" in ran.read_text())
            assert up.api(f"/v1/runs/{run}")["outcome"] is None, "nobody else may tell its end"
        finally:
            copy.kill()
            copy.communicate()
        assert ran.read_text().split() == ["began", "done"]
