"""Twenty `qd lock` on two servers, half of them killed: never more at once than there are slots."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.up import QD, wait_for
from tests.faults.fleet import API, Fleet, fleet

SLOTS = 3
WRAPPERS = 20
COMMAND = (
    "trap 'echo E $0 $(date +%s%N) >> {log}; kill $!; exit 143' TERM; "
    "echo S $0 $(date +%s%N) >> {log}; sleep 0.4 & wait; echo E $0 $(date +%s%N) >> {log}"
)


def wrapper(servers: Fleet, number: int, log: Path) -> subprocess.Popen[bytes]:
    url = servers.urls[f"s{number % 2}"]
    script = COMMAND.format(log=log)
    words = ["lock", "db", "-n", str(SLOTS), "--", "sh", "-c", script, str(number)]
    return subprocess.Popen(
        [QD, *words],
        env={**os.environ, "QD_URL": url, "QD_TOKEN": API},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def lock(servers: Fleet) -> dict[str, Any]:
    return wait_for("an answer", lambda: servers.ask("s0", "/v1/locks/db"))


def most_at_once(lines: list[str]) -> int:
    """How many held the lock together, at most, by the times they wrote."""
    moves = sorted((int(at), 1 if kind == "S" else -1) for kind, _, at in map(str.split, lines))
    now = most = 0
    for _, move in moves:
        now += move
        most = max(most, now)
    return most


def keeper_of(process: subprocess.Popen[bytes]) -> int | None:
    """The child of a wrapper that lives in a session of its own, once there is one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next((int(pid) for pid in children if os.getsid(int(pid)) == int(pid)), None)


def test_never_more_than_the_slots_hold_a_lock_though_half_of_the_wrappers_are_killed(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    with fleet(tmp_path / "fleet", servers=2, agents=0) as servers:
        lock(servers)
        wait_for("the other server", lambda: servers.ask("s1", "/v1/locks"))
        started = [wrapper(servers, number, log) for number in range(WRAPPERS)]
        wait_for("half of them to wait", lambda: lock(servers)["waiting"] >= WRAPPERS // 2)
        holders = {claim["pid"] for claim in lock(servers)["holders"]}
        for process in sorted(started, key=lambda process: process.pid not in holders):
            if sum(one.poll() == -signal.SIGKILL for one in started) < WRAPPERS // 2:
                process.kill()
                process.wait()
        for process in started:
            assert process.wait(60) in (0, -signal.SIGKILL)
        wait_for("the last claim to go", lambda: not lock(servers)["holding"])
        dead_holder_is_evicted(servers, log)
    lines = log.read_text().splitlines()
    finished = sum(process.returncode == 0 for process in started)
    assert finished >= WRAPPERS // 2 - SLOTS
    assert len(lines) >= 2 * finished
    assert most_at_once(lines) <= SLOTS


def dead_holder_is_evicted(servers: Fleet, log: Path) -> None:
    """With its keeper, as when a machine goes: its slot is free 20 s later."""
    process = wrapper(servers, 99, log)
    wait_for("a holder", lambda: lock(servers)["holding"] == 1)
    keeper = wait_for("its keeper", lambda: keeper_of(process))
    process.kill()
    os.kill(keeper, signal.SIGKILL)
    process.wait()
    wait_for("the other servers' word", lambda: servers.ask("s1", "/v1/locks/db")["holding"] == 0)
