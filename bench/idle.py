"""P9: what an agent costs while nothing happens."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench import rigs
from bench.throughput import resident

CLAIM = "P9"
SETTLE_S = 3.0
WATCH_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


def measure(up: rigs.Up, watch_s: float, settle_s: float = SETTLE_S) -> rigs.Report:
    """Memory and processor time of the agent with its spawner, and of the server beside it."""
    report = rigs.Report("idle", CLAIM, "agent idle under 45 MiB and under 0.3 % of a core")
    time.sleep(settle_s)
    groups = {
        "agent": [up.agent_pid],
        "its spawner": _children(up.agent_pid),
        "server": [up.server_pid],
        "fabric": [int(up.ready["pids"]["fabric"])],
    }
    before = {name: sum(map(cpu_s, pids)) for name, pids in groups.items()}
    began = time.monotonic()
    time.sleep(watch_s)
    lasted = time.monotonic() - began
    cpu = {}
    for name, pids in groups.items():
        report.add(f"{name}: resident memory", [sum(map(resident, pids))], "MiB")
        cpu[name] = 100 * (sum(map(cpu_s, pids)) - before[name]) / lasted
        report.add(f"{name}: processor over {lasted:.0f} s", [cpu[name]], "%")
    own = sum(map(_unshared, [*groups["agent"], *groups["its spawner"]]))
    report.add("agent with spawner: proportional memory (PSS)", [own], "MiB")
    report.compare("agent with spawner, PSS in MiB", own, 45.0)
    report.compare("agent with spawner, % of a core", cpu["agent"] + cpu["its spawner"], 0.3)
    return report


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in found.split()]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _unshared(pid: int) -> float:
    """Memory in MiB, shared pages counted by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main(quick: bool) -> rigs.Report:
    with rigs.up() as up:
        return measure(up, 1.0 if quick else WATCH_S, 0.5 if quick else SETTLE_S)


if __name__ == "__main__":
    rigs.entry(main)
