"""What a machine is and how busy it is, read from the kernel."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quarterdeck.agent.addresses import addresses
from quarterdeck.agent.shim.tree import boot_id


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Busy and total ticks of all processors since boot."""

    busy: int
    total: int


class Figures:
    """Reads the machine's load; processor use is since the last reading."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._before = _cpu_times()

    def read(self) -> dict[str, Any]:
        """The fields of a `LoadMessage`."""
        now = _cpu_times()
        total = now.total - self._before.total
        busy = now.busy - self._before.busy
        self._before = now
        memory = _memory()
        disk = os.statvfs(self._state)
        return {
            "cpu_percent": round(100 * busy / total, 1) if total > 0 else 0.0,
            "load1": round(os.getloadavg()[0], 2),
            "memory_total": memory["MemTotal"],
            "memory_used": memory["MemTotal"] - memory["MemAvailable"],
            "disk_total": disk.f_blocks * disk.f_frsize,
            "disk_free": disk.f_bavail * disk.f_frsize,
        }


def facts() -> dict[str, Any]:
    """What this machine is: the fields of a `FactsMessage`, but for its name and our version."""
    system = os.uname()
    return {
        "os": system.sysname.lower(),
        "kernel": system.release,
        "arch": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "boot_id": boot_id(),
        "addresses": addresses(),
    }


def _cpu_times() -> CpuTimes:
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return CpuTimes(busy=sum(fields) - idle, total=sum(fields))


def _memory() -> dict[str, int]:
    wanted = {"MemTotal", "MemAvailable"}
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in wanted:
            found[key] = int(rest.split()[0]) * 1024
    return found
