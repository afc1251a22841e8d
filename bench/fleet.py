"""P6: fan-out of `true` to 1,000 and 10,000 simulated agents; also P7 (idle) and X25 (reconnect).

The server, the fabric and the supervisor are a whole `qd up --nodes 0` on SQLite; the agents are
those of bench/simulated.py, in `PROCESSES` processes of their own on the same machine. The floors
are taken in the same run: a plain request and reply to the same subscribers, and the rows that a
run needs at the very least, through the sqlite3 of the standard library. The second half of the
agents joins when the first has been measured: X25 is about half of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import rigs
from bench.crowd import LOOK_S, Crowd, Spent, crowd, until
from bench.floors import ear, echoes, plain_rows
from bench.idle import cpu_s
from bench.throughput import resident
from quarterdeck.client.http import Connection
from quarterdeck.errors import Unavailable

CLAIM = "P6"
AGENTS = 10_000
PROCESSES = 4
SMALL = 1000
ROUNDS = {True: 1, False: 3}
SMALL_ROUNDS = {True: 1, False: 5}
IDLE_S = {True: 0.5, False: 60.0}
AFTER_S = {True: 0.5, False: 20.0}
EAR_S = 0.5
WINDOW_S = 0.1


def fan_out(
    report: rigs.Report,
    up: rigs.Up,
    agents: Crowd,
    target: str,
    count: int,
    rounds: int,
) -> float:
    """Milliseconds from the submit of `true` until the run has ended, as a client sees it."""
    server = Connection(up.ready["url"], up.ready["token"])
    took, recorded, released, spent = [], [], [], []
    for _ in range(rounds):
        before = Spent(up, agents)
        began = time.perf_counter()
        run = server.post("/v1/runs", {"target": target, "argv": ["true"]}, wait="60s")
        while run["state"] != "ended":
            run = server.get(f"/v1/runs/{run['id']}", wait="60s")
        took.append((time.perf_counter() - began) * 1000)
        counts = run["counts"]
        if counts["succeeded"] != count:
            raise SystemExit(f"Of {count} tasks {counts['succeeded']} succeeded: {counts}.")
        recorded.append(_seconds(run) * 1000)
        spent.append(before.seconds())
        released.append(agents.until_released() * 1000)
    whole = report.add(f"{count} x true: submit to the answer", took, "ms")
    report.add(f"{count} x true: submit to ended, by the record", recorded, "ms")
    report.add(f"{count} x true: then until all is archived", released, "ms")
    for name in spent[0]:
        values = [each[name] * 1000 for each in spent]
        report.add(f"{count} x true: processor time, {name}", values, "ms")
    return whole.median


def _seconds(run: dict[str, Any]) -> float:
    at = [datetime.fromisoformat(run[name]) for name in ("created_at", "ended_at")]
    return float((at[1] - at[0]).total_seconds())


def idle(report: rigs.Report, up: rigs.Up, agents: Crowd, watch_s: float) -> None:
    """P7."""
    count = len(agents.nodes)
    spent = Spent(up, agents)
    threading.Event().wait(watch_s)
    percent = spent.percent()
    for name, value in percent.items():
        report.add(f"{count} idle: {name}, % of a core", [value], "%")
    floor = ear(up, EAR_S * watch_s)
    report.add(f"floor: a process that only receives the beats of {count}", [floor], "%")
    memory = {"server": resident(up.server_pid), "fabric": resident(up.fabric_pid)}
    for name, value in memory.items():
        report.add(f"{count} idle: memory of the {name}", [value], "MiB")
    report.compare(
        f"P7 {count} idle: server + fabric, % of a core", percent["server"] + percent["fabric"], 15
    )
    report.compare(
        f"P7 {count} idle: (server + fabric) / (fabric + floor)",
        (percent["server"] + percent["fabric"]) / max(percent["fabric"] + floor, 0.01),
        None,
    )
    report.compare(f"P7 {count} idle: server + fabric, MiB", sum(memory.values()), 1024)


class Visitor:
    """Somebody who uses the API all the time: how long each call took."""

    def __init__(self, up: rigs.Up, node: str) -> None:
        self._server = Connection(up.ready["url"], up.ready["token"])
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self.lists: list[float] = []
        self.runs: list[float] = []
        self.failed: list[str] = []

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _visit(self) -> None:
        order = {"target": self._node, "argv": ["true"]}
        while not self._over.wait(LOOK_S):
            try:
                self.lists.append(rigs.timed(partial(self._server.get, "/v1/nodes", limit=50)))
                run = partial(self._server.post, "/v1/runs", order, wait="20s")
                self.runs.append(rigs.timed(run))
            except Unavailable as error:
                self.failed.append(error.message)


def reconnect(report: rigs.Report, up: rigs.Up, agents: Crowd, after_s: float) -> None:
    """X25: the fabric is killed; everybody comes back at once, while somebody uses the API."""
    count = len(agents.nodes)
    pid = up.fabric_pid
    spent = 0.0
    with Visitor(up, "sim-00000") as visitor:
        began, server_before = time.monotonic(), cpu_s(up.server_pid)
        os.kill(pid, signal.SIGKILL)
        until("a new fabric", lambda: up.ready["pids"]["fabric"] not in (None, pid))
        until("all links", lambda: _all_back(agents, began))
        back = sorted(at - began for told in agents.told() for at in told.since)
        threading.Event().wait(after_s)
        spent = cpu_s(up.server_pid) - server_before
    report.add(f"X25 {count}: link back after the kill", [at * 1000 for at in back], "ms")
    report.add(f"X25 {count}: first / last link back", [back[0] * 1000, back[-1] * 1000], "ms")
    report.add(f"X25 {count}: GET /v1/nodes meanwhile", visitor.lists, "ms")
    report.add(f"X25 {count}: a small run meanwhile", visitor.runs, "ms")
    report.add(f"X25 {count}: processor time of the server", [spent * 1000], "ms")
    span = back[-1] - back[0]
    report.compare(
        f"X25 {count}: most links within {WINDOW_S:g} s / even spread", _densest(back, span), None
    )
    report.compare(f"X25 {count}: seconds until all are back", back[-1], None)
    report.compare(
        f"X25 {count}: p99 of GET /v1/nodes, ms", rigs.percentile(visitor.lists, 99), 1000
    )
    if visitor.failed:
        report.notes.append(
            f"X25: {len(visitor.failed)} calls failed, such as: {visitor.failed[0]}"
        )


def _all_back(agents: Crowd, began: float) -> bool:
    told = agents.told()
    up = sum(each.standing for each in told)
    return up == len(agents.nodes) and all(at > began for each in told for at in each.since)


def _densest(back: Sequence[float], span_s: float) -> float:
    """The most links that came within one window, over what an even spread would put there."""
    most, start = 0, 0
    for end, at in enumerate(back):
        while at - back[start] > WINDOW_S:
            start += 1
        most = max(most, end - start + 1)
    return most / max(len(back) * min(1.0, WINDOW_S / max(span_s, WINDOW_S)), 1.0)


def people(report: rigs.Report, up: rigs.Up, count: int, rounds: int) -> None:
    """What a person waits for at this size."""
    server = Connection(up.ready["url"], up.ready["token"])
    lists = [rigs.timed(partial(server.get, "/v1/nodes")) for _ in range(rounds)]
    report.add(f"{count} nodes: GET /v1/nodes", lists, "ms")
    commands = {"qd nodes": ["nodes"], "qd run -t all -- true": ["run", "-t", "all", "--", "true"]}
    for name, words in commands.items():
        call = rigs.shell([rigs.QD, *words], env=up.env)
        report.add(f"{count} nodes: {name}", [rigs.timed(call) for _ in range(rounds)], "ms")


def floors(
    report: rigs.Report, up: rigs.Up, nodes: Sequence[str], rounds: int
) -> tuple[float, float]:
    """Milliseconds of both floors for so many nodes."""
    count = len(nodes)
    asked = asyncio.run(echoes(up, nodes, rounds))
    wire = report.add(f"floor: {count} requests and replies", asked, "ms")
    written = plain_rows(up.data, count, rounds)
    rows = report.add(f"floor: {count} tasks as plain rows", written, "ms")
    return wire.median, rows.median


def both(
    report: rigs.Report,
    up: rigs.Up,
    agents: Crowd,
    target: str,
    count: int,
    goal_s: float,
    quick: bool,
) -> None:
    """P6 for one size, beside its floors."""
    rounds = (SMALL_ROUNDS if count <= SMALL else ROUNDS)[quick]
    wire, rows = floors(report, up, agents.nodes[:count], rounds)
    took = fan_out(report, up, agents, target, count, rounds)
    report.compare(f"P6 {count} x true, seconds (stretch {goal_s / 2:g})", took / 1000, goal_s)
    report.compare(f"P6 {count} x true / (both floors)", took / (wire + rows), None)


def measure(up: rigs.Up, agents: Crowd, count: int, quick: bool) -> rigs.Report:
    report = rigs.Report(
        "fleet",
        CLAIM,
        "true on 1,000 / 10,000 agents within 1 / 10 s, server under 500 MiB",
        live=not quick,
    )
    half, each = PROCESSES // 2, count // PROCESSES
    joined = [agents.grow(half, each)]
    small = min(SMALL, len(agents.nodes))
    target = "sim-00*" if small == SMALL else "all"
    both(report, up, agents, target, small, 1.0, quick)
    reconnect(report, up, agents, AFTER_S[quick])
    joined.append(agents.grow(PROCESSES - half, each))
    whole = len(agents.nodes)
    report.add(f"{whole // 2} agents enrolled and there", joined, "s")
    both(report, up, agents, "all", whole, 10.0, quick)
    people(report, up, whole, ROUNDS[quick])
    agents.until_released()
    report.compare("P6 memory of the server at its peak, MiB", peak(up.server_pid), 500)
    idle(report, up, agents, IDLE_S[quick])
    return report


def peak(pid: int) -> float:
    """The most resident memory a process ever had, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main(quick: bool) -> rigs.Report:
    parser = argparse.ArgumentParser(prog="bench.fleet")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--agents", type=int, default=100 if quick else AGENTS)
    chosen = parser.parse_args()
    if chosen.agents < PROCESSES:
        raise SystemExit(f"bench.fleet needs {PROCESSES} agents at least.")
    with crowd() as (up, agents):
        return measure(up, agents, chosen.agents, quick)


if __name__ == "__main__":
    rigs.entry(main)
