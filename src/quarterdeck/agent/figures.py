"""What a machine is and how busy it is, read from the kernel."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import msgspec

from quarterdeck.agent.addresses import addresses
from quarterdeck.agent.shim.tree import boot_id
from quarterdeck.settings import host_name
from quarterdeck.wire.run import FactsMessage, LoadMessage


class CpuTimes(msgspec.Struct, frozen=True):
    """Busy and total ticks of all processors since boot."""

    busy: int
    total: int


class Figures:
    """Reads the machine's load; processor use is since the last reading."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._before = _cpu_times()

    def read(self) -> LoadMessage:
        now = _cpu_times()
        total = now.total - self._before.total
        busy = now.busy - self._before.busy
        self._before = now
        memory = _memory()
        disk = os.statvfs(self._state)
        return LoadMessage(
            cpu_percent=round(100 * busy / total, 1) if total > 0 else 0.0,
            load1=round(os.getloadavg()[0], 2),
            memory_total=memory["MemTotal"],
            memory_used=memory["MemTotal"] - memory["MemAvailable"],
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_free=disk.f_bavail * disk.f_frsize,
        )


def facts() -> FactsMessage:
    """What this machine is."""
    system = os.uname()
    return FactsMessage(
        os=system.sysname.lower(),
        kernel=system.release,
        arch=platform.machine(),
        cpus=os.cpu_count() or 1,
        boot_id=boot_id(),
        hostname=host_name(),
        addresses=addresses(),
        version=metadata.version("quarterdeck"),
    )


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
