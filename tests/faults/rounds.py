"""One round of kills: a run writes on both streams while everything but its shims is killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.up import Up, wait_for

LINES = 100
EXIT = 7
CONNECTED_S = 10.0
SEALED_S = 30.0
SCRIPT = f"""
echo "$QD_ATTEMPT" >> "$COUNT"
i=0
while [ $i -lt {LINES} ]; do
    echo "out $i"
    echo "err $i" >&2
    i=$((i + 1))
    sleep 0.1
done
exit {EXIT}
"""
EXPECTED = {
    "stdout": "".join(f"out {i}\n" for i in range(LINES)).encode(),
    "stderr": "".join(f"err {i}\n" for i in range(LINES)).encode(),
}


class Round:
    """A run under attack, and what must be true after it."""

    def __init__(self, up: Up, chance: random.Random, count: Path) -> None:
        self.up = up
        self.chance = chance
        self.count = count
        self.story: list[str] = []

    def play(self) -> None:
        """Start a run on all nodes, kill in a random order at random moments, then check."""
        run = self.up.detach("all", "-e", f"COUNT={self.count}", "--", SCRIPT)
        victims: list[tuple[str, Callable[[], None]]] = [
            ("server", self.kill_server),
            ("fabric", self.kill_fabric),
            ("agent", self.kill_agent),
            ("qd up alone", self.kill_supervisor),
            ("everything but shims", self.kill_everything),
        ]
        self.chance.shuffle(victims)
        for name, kill in victims:
            pause_s = self.chance.uniform(0, 1.5)
            self.story.append(f"after {pause_s:.2f} s kill {name}")
            self._pause(pause_s)
            kill()
        self.check(run)

    def kill_server(self) -> None:
        self._kill_child(lambda pids: pids["server"])

    def kill_fabric(self) -> None:
        self._kill_child(lambda pids: pids["fabric"])

    def kill_agent(self) -> None:
        name = self.chance.choice(self.up.node_names())
        self._kill_child(lambda pids: pids["agents"][name])

    def kill_supervisor(self) -> None:
        self.up.kill_supervisor()
        self.up.start()

    def kill_everything(self) -> None:
        pids = self.up.ready["pids"]
        self.up.kill_supervisor()
        for pid in [pids["server"], pids["fabric"], *pids["agents"].values()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                self.story.append(f"  {pid} had ended by itself")
        self.up.start()

    def check(self, run: str) -> None:
        """The promises: true end, exact bytes, one exec per attempt, record like the journal."""
        self._wait_connected()
        shown = self.up.ended(run, within_s=LINES * 0.3 + CONNECTED_S)
        assert shown["outcome"] == "failed", shown
        for task in shown["tasks"]:
            assert (task["outcome"], task["exit_code"]) == ("failed", EXIT), task
            (attempt,) = task["attempts"]
            self._compare_with_journal(task["node"], attempt)
            for stream, expected in EXPECTED.items():
                assert attempt[stream]["bytes"] == len(expected), (stream, attempt)
                assert attempt[stream]["sha256"] == hashlib.sha256(expected).hexdigest()
                self._compare_bytes(run, task["node"], stream, expected)
        execs = self.count.read_text().split()
        assert sorted(execs) == sorted(t["attempts"][0]["id"] for t in shown["tasks"]), execs
        wait_for("sealed", lambda: self._sealed(run), SEALED_S)
        for task in shown["tasks"]:
            for stream, expected in EXPECTED.items():
                self._compare_bytes(run, task["node"], stream, expected)

    def _kill_child(self, choose: Callable[[dict[str, Any]], int]) -> None:
        pid = choose(self.up.ready["pids"])
        os.kill(pid, signal.SIGKILL)
        wait_for(
            "ready.json with the new pid",
            lambda: (self.up.data / "ready.json").exists() and choose(self.up.ready["pids"]) != pid,
        )

    def _wait_connected(self) -> None:
        def connected() -> bool:
            nodes = self.up.api("/v1/nodes")["items"]
            return len(nodes) == self.up.nodes and all(n["state"] == "ready" for n in nodes)

        wait_for("server, fabric and agents connected", connected)

    def _compare_with_journal(self, node: str, attempt: dict[str, Any]) -> None:
        """As long as the node still holds the attempt, its own record says the same."""
        path = self.up.data / "agents" / node / "attempts" / attempt["id"] / "exit.json"
        try:
            end = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        assert end["code"] == attempt["exit_code"]
        assert end["signal"] == attempt["signal"]
        for stream in EXPECTED:
            assert end["streams"][stream]["bytes"] == attempt[stream]["bytes"]
            assert end["streams"][stream]["sha256"] == attempt[stream]["sha256"]

    def _compare_bytes(self, run: str, node: str, stream: str, expected: bytes) -> None:
        done = self.up.qd("logs", run, "--raw", "--node", node, "--stream", stream)
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected, (node, stream, len(done.stdout), len(expected))

    def _sealed(self, run: str) -> bool:
        shown = self.up.api(f"/v1/runs/{run}")
        return all(task["attempts"][0]["sealed"] for task in shown["tasks"])

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        wait_for("the moment to kill", lambda: time.monotonic() >= until, seconds + 5)
