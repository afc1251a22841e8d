"""Three servers on one PostgreSQL and one fabric: killed and frozen at random while runs come in.

Nothing is lost, nothing runs twice, whatever a server was doing when it was killed (X2, X7) or
stood still for a while and then went on (X4). `./dev test` plays `QD_FAULT_RUNS` = 40 runs,
`./dev faults` 1,000. The seed is printed; `QD_FAULT_SEED=N` plays the same victims and pauses.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.up import wait_for
from tests.faults.fleet import Fleet, fleet

RUNS = int(os.environ.get("QD_FAULT_RUNS", "40"))
SEED = int(os.environ.get("QD_FAULT_SEED") or random.randrange(2**32))
FROZEN_S = 60.0 if RUNS >= 1000 else 12.0
AT_ONCE = 6
SCRIPT = """
echo "$QD_ATTEMPT" >> "$COUNT"
echo "out $QD_ATTEMPT"
echo "err $QD_ATTEMPT" >&2
sleep "$NAP"
exit "$CODE"
"""


class Wanted(msgspec.Struct, frozen=True):
    """A run that was asked for, and what must come of it."""

    run: str
    code: int


class Storm:
    """Kills and freezes servers until it is told to end; then all run again."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._blow)
        self.story: list[str] = []
        self.kills = 0
        self.freezes = 0

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        for server in self._fleet.servers.values():
            server.send(signal.SIGCONT)

    def _blow(self) -> None:
        frozen_long = False
        while not self._enough.wait(self._chance.uniform(0.2, 3.0)):
            name = self._chance.choice(list(self._fleet.servers))
            server = self._fleet.servers[name]
            if self._chance.random() < 0.5:
                pause_s = self._chance.uniform(0, 3.0)
                self.story.append(f"kill -9 {name}, again after {pause_s:.1f} s")
                server.kill()
                self._enough.wait(pause_s)
                server.start()
                self.kills += 1
            else:
                pause_s = self._chance.uniform(0.5, 10.0) if frozen_long else FROZEN_S
                frozen_long = True
                self.story.append(f"freeze {name} for {pause_s:.1f} s")
                server.send(signal.SIGSTOP)
                self._enough.wait(pause_s)
                server.send(signal.SIGCONT)
                self.freezes += 1


def asked(fleet: Fleet, number: int, count: Path) -> Wanted:
    """Ask one server after the other for a run until one has recorded it, under one key."""
    chance = random.Random(f"{SEED}/{number}")
    code = chance.choice([0, 0, 0, 7])
    target = chance.choice(["all", *fleet.agents])
    order = {
        "target": target,
        "argv": ["/bin/sh", "-c", SCRIPT],
        "env": {"COUNT": str(count), "NAP": f"{chance.uniform(0, 0.3):.2f}", "CODE": str(code)},
        "offline_ttl_s": 600,
    }
    made = fleet.anybody(chance, "/v1/runs", order, key=f"storm-{number}")
    return Wanted(run=made["id"], code=code)


def ended(fleet: Fleet, wanted: Wanted) -> dict[str, Any]:
    chance = random.Random(wanted.run)

    def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = fleet.anybody(chance, f"/v1/runs/{wanted.run}?wait=1s")
        return shown if shown["state"] == "ended" else None

    return wait_for(f"the end of run {wanted.run}", look, 180)


@pytest.mark.timeout(300 + 3 * RUNS)
def test_runs_survive_kills_and_stops_of_servers(tmp_path: Path) -> None:
    print(f"seed {SEED}, {RUNS} runs")
    count = tmp_path / "count"
    count.touch()
    with fleet(tmp_path / "fleet") as ours:
        began = time.monotonic()
        try:
            storm = Storm(ours, random.Random(SEED))
            with storm, ThreadPoolExecutor(AT_ONCE) as pool:
                wanted = list(pool.map(lambda n: asked(ours, n, count), range(RUNS)))
            ours.wait_ready()
            shown = [ended(ours, one) for one in wanted]
            check(ours, wanted, shown, count)
            took_s = time.monotonic() - began
            print(f"{storm.kills} kills, {storm.freezes} freezes in {took_s:.0f} s")
        except BaseException:
            print("\n".join(storm.story))
            print(ours.logs())
            raise


def check(fleet: Fleet, wanted: list[Wanted], shown: list[dict[str, Any]], count: Path) -> None:
    """True ends, one exec for each attempt and none besides, and archived bytes that are exact."""
    assert len({one.run for one in wanted}) == len(wanted), "a key made two runs"
    attempts = []
    for one, run in zip(wanted, shown, strict=True):
        outcome = "failed" if one.code else "succeeded"
        assert run["outcome"] == outcome, run
        for task in run["tasks"]:
            assert (task["outcome"], task["exit_code"]) == (outcome, one.code), task
            assert len(task["attempts"]) == 1, task
            attempts.append(task["attempts"][0]["id"])
    assert sorted(count.read_text().split()) == sorted(attempts)
    for one, run in zip(wanted, shown, strict=True):
        wait_for(f"the archive of {one.run}", partial(sealed, fleet, one.run), 90)
        for task in run["tasks"]:
            attempt = task["attempts"][0]["id"]
            for stream, word in (("stdout", "out"), ("stderr", "err")):
                path = f"/v1/runs/{one.run}/output?node={task['node_id']}&stream={stream}"
                found = wait_for(f"the {stream} of {attempt}", partial(fleet.bytes_of, path))
                assert found == f"{word} {attempt}\n".encode()


def sealed(fleet: Fleet, run: str) -> bool:
    shown = fleet.anybody(random.Random(run), f"/v1/runs/{run}")
    return all(task["attempts"][0]["sealed"] for task in shown["tasks"])
