"""Somebody damages or deletes files of a node: runs end truthfully, and nothing runs twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.up import Up, running, wait_for


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with running(tmp_path / "up", nodes=1, env={"QD_SLOTS": "8"}) as found:
        yield found


def attempt_directory(up: Up, run: str) -> Path:
    return up.data / "agents" / up.node_names()[0] / "attempts" / f"{run}-0-1"


def waiting_run(up: Up, tmp_path: Path) -> tuple[str, Path, Path]:
    """A run that waits for a gate: (run, its directory, the gate). It counts its starts."""
    gate = tmp_path / "gate"
    text = (
        f"echo $QD_ATTEMPT >> {tmp_path}/count; while [ ! -e {gate} ]; do sleep 0.1; done; exit 4"
    )
    run = up.detach("all", "--", text)
    directory = attempt_directory(up, run)
    wait_for("started", (directory / "started").exists)
    wait_for("running", lambda: up.api(f"/v1/runs/{run}")["state"] == "running")
    return run, directory, gate


def only_attempt(shown: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = shown["tasks"][0]["attempts"][0]
    return found


def test_a_task_that_deletes_a_file_of_its_attempt_still_ends(up: Up, tmp_path: Path) -> None:
    names = ("started", "order", "times", "acked")
    runs = [(name, *waiting_run(up, tmp_path)) for name in names]
    for name, _, directory, _ in runs:
        (directory / name).unlink(missing_ok=True)
    (tmp_path / "gate").touch()
    for name, run, _, _ in runs:
        assert only_attempt(up.ended(run))["exit_code"] == 4, name


def test_damage_while_everything_is_down_ends_truthfully(up: Up, tmp_path: Path) -> None:
    """The shim lives and keeps the only true knowledge; it is never declared dead."""
    damages: list[tuple[str, bytes | None]] = [
        ("started", None),
        ("started", b"{"),
        ("lock", None),
        ("order", None),
        ("stop", b"\xff"),
    ]
    runs = [(*waiting_run(up, tmp_path), *damage) for damage in damages]
    up.stop()
    for _, directory, _, name, content in runs:
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)
    up.start()
    (tmp_path / "gate").touch()
    for run, _, _, name, content in runs:
        attempt = only_attempt(up.ended(run))
        if name != "lock":
            assert attempt["exit_code"] == 4, (name, content, attempt)
    assert begun_once(tmp_path, [run for run, *_ in runs])


def begun_once(tmp_path: Path, runs: list[str]) -> bool:
    return sorted((tmp_path / "count").read_text().split()) == sorted(f"{run}-0-1" for run in runs)


def test_an_end_that_cannot_be_read_is_lost_and_harms_no_other_run(up: Up, tmp_path: Path) -> None:
    damages = [b"", b"{", b"[]", b'{"v":9}', b'{"v":1,"code":' + b"9" * 40 + b"}"]
    runs = [(*waiting_run(up, tmp_path), damage) for damage in damages]
    up.stop()
    (tmp_path / "gate").touch()
    for _, directory, _, damage in runs:
        wait_for("the end on the node", (directory / "exit.json").exists)
        (directory / "exit.json").write_bytes(damage)
    up.start()
    for run, _, _, damage in runs:
        shown = up.ended(run)
        assert shown["outcome"] == "lost", (damage, shown)
        assert "exit.json" in shown["tasks"][0]["error"]
    assert up.qd("run", "-t", "all", "--", "echo fine").returncode == 0
    assert begun_once(tmp_path, [run for run, *_ in runs])


def test_a_task_that_removes_its_own_directory_is_lost_not_running(up: Up) -> None:
    run = up.detach("all", "--", f"rm -rf {up.data}/agents/*/attempts/$QD_ATTEMPT; sleep 1")
    shown = up.ended(run, within_s=60)
    assert only_attempt(shown)["reason"] in ("forgotten", "lost")


def test_output_cut_on_the_node_is_said_and_does_not_hold_the_run(up: Up, tmp_path: Path) -> None:
    """The cache has what was written before; what the file lost is gone, and the log says so."""
    directory = f"{up.data}/agents/*/attempts/$QD_ATTEMPT"
    run = up.detach("all", "--", f"echo before; sleep 0.5; : > $(echo {directory})/stdout; exit 3")
    shown = up.ended(run, within_s=60)
    assert only_attempt(shown)["exit_code"] == 3
    wait_for("sealed", lambda: only_attempt(up.api(f"/v1/runs/{run}"))["sealed"], 60)


def test_small_files_of_qd_up_may_be_damaged(up: Up) -> None:
    up.stop()
    (up.data / "children.json").write_text(json.dumps({"boot": "x", "children": {"a": [-1, 2]}}))
    (up.data / "port").write_text("99999999")
    (up.data / "fabric" / "port").unlink()
    (up.data / "server" / "tokens").write_bytes(b"\xff\xfe")
    up.start()
    assert up.qd("run", "-t", "all", "--", "true").returncode == 0
