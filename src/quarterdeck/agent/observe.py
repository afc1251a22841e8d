"""The node about itself: facts, figures and the heartbeat loop.

Waits for: each (re)connection to the fabric, and every `heartbeat_s`, shifted by a hash of the node
id so that a fleet does not beat in one instant.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import msgspec

from quarterdeck.agent.addresses import addresses
from quarterdeck.agent.shim.tree import boot_id
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.service import Clock, Poke, jitter
from quarterdeck.settings import host_name
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import decode, encode
from quarterdeck.wire.run import BEAT_LIMIT, BeatNow, FactsMessage, Heartbeat, LoadMessage

MIB = 1 << 20


class CpuTimes(msgspec.Struct, frozen=True):
    """Busy and total ticks of all processors since boot."""

    busy: int
    total: int


class Figures:
    """Reads the machine's load; processor use is since the last reading."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._before = _cpu_times()

    def read(self, attempts: int) -> LoadMessage:
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
            attempts=attempts,
        )


def room(directory: Path, min_free_mib: int) -> str:
    """Empty when the disk of a directory has room, else a sentence for a person."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free >= min_free_mib * MIB:
        return ""
    return (
        f"The disk of {directory} has only {free // MIB} MiB free (needs {min_free_mib}); "
        "no new work is taken until space is freed."
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


class Beats:
    """Sends heartbeats. `unreleased` gives attempts and revisions, `full` why no work is taken.

    While `contact_counts` (some attempt has `lost_after`), a beat asks for an answer, and each
    answer of a server touches the file `contact`, which the shims look at.
    """

    def __init__(
        self,
        *,
        node: str,
        name: str,
        session: str,
        labels: Mapping[str, str],
        every_s: float,
        fabric: Fabric,
        clock: Clock,
        figures: Figures,
        unreleased: Callable[[], dict[str, int]],
        full: Callable[[], str],
        contact: Path,
        contact_counts: Callable[[], bool],
    ) -> None:
        self._node = node
        self._name = name
        self._session = session
        self._labels = dict(labels)
        self._every_s = every_s
        self._fabric = fabric
        self._clock = clock
        self._figures = figures
        self._unreleased = unreleased
        self._full = full
        self._contact = contact
        self._contact_counts = contact_counts
        self._number = 0
        self._within_s = 0.0
        self._facts = facts()
        self.now = Poke()

    async def beat_on(self) -> None:
        """Loop: a beat now, then one per period; one more when `now` is poked."""
        phase = int.from_bytes(hashlib.sha256(self._node.encode()).digest()[:4]) / 2**32
        wait_s = self._every_s * (0.1 + 0.9 * phase)
        while True:
            try:
                await self._beat()
            except Unavailable:
                await asyncio.sleep(0)  # the link is down: the next connection pokes `now`
            await self.now.wait(wait_s)
            wait_s = self._every_s
            delay_s, self._within_s = self._within_s * jitter(), 0.0
            await asyncio.sleep(delay_s)

    def asked(self, message: Message) -> None:
        """The handler of a server's request for a beat."""
        try:
            wish: BeatNow = decode(message.data, BeatNow)
        except Invalid:
            return
        self._within_s = min(max(wish.within_s, 0.0), self._every_s)
        self.now("asked")

    async def _beat(self) -> None:
        held = self._unreleased()
        self._number += 1
        beat = Heartbeat(
            node=self._node,
            session=self._session,
            number=self._number,
            name=self._name,
            at=self._clock.now().timestamp(),
            facts=self._facts,
            load=self._figures.read(len(held)),
            labels=self._labels,
            full=self._full(),
            attempts=tuple(sorted(held.items())[:BEAT_LIMIT]),
            attempt_count=len(held),
        )
        if not self._contact_counts():
            await self._fabric.publish(subjects.beat(self._node), encode(beat))
            return
        await self._fabric.request(subjects.beat(self._node), encode(beat), timeout_s=self._every_s)
        self._contact.touch()


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
