"""One agent's view of a simulated machine: what `Host` promises, until the agent dies.

After `process.die` (a kill -9 of the agent) its claims are free, and nothing it still tries has any
effect, so a test may cancel its tasks at leisure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quarterdeck.agent.held import REVOKED, Held, Refusal, Remains, Request, Terms
from quarterdeck.agent.host import Claim, Spool, Watch
from quarterdeck.agent.shim import files
from quarterdeck.agent.simulated.machine import Directory, SimulatedMachine
from quarterdeck.core.ids import split_attempt
from quarterdeck.errors import Broken, Conflict
from quarterdeck.wire.run import FactsMessage, LoadMessage, OrderMessage

WRITE_S = 0.002
FORK_S = 0.001
PATIENCE_S = 5.0


class AgentProcess:
    """One start of an agent, as the machine sees it: it owns claims, and it can be killed."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self.dead = False

    def die(self) -> None:
        """Killed: what it does from now on happens to nobody."""
        self.let_go()
        self.dead = True

    def let_go(self) -> None:
        """Everything that the kernel frees when a process ends."""
        for directory in self._machine.directories.values():
            directory.watchers.clear()
            holder = directory.holder
            if isinstance(holder, SimulatedClaim) and holder.owner is self:
                directory.freed()
        if self._machine.owner is self:
            self._machine.owner = None

    async def write(self, change: Callable[[], None]) -> None:
        """A change takes a moment, and death may come before it is done or before it is told."""
        await asyncio.sleep(WRITE_S / 2)
        if not self.dead:
            change()
        await asyncio.sleep(WRITE_S / 2)


class SimulatedHost:
    """What one start of an agent has of its machine."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self.process = AgentProcess(machine)

    async def start(self) -> None:
        if self._machine.owner is not None:
            raise Conflict("state_in_use", f"{self._machine.name} has an agent already.")
        self._machine.owner = self.process

    async def stop(self) -> None:
        self.process.let_go()

    def scan(self) -> list[str]:
        return sorted(self._machine.directories)

    async def accept(self, attempt: str, order: OrderMessage) -> None:
        split_attempt(attempt)
        await self.process.write(lambda: self._machine.add(attempt, order))

    def look(self, attempt: str) -> Held | None:
        split_attempt(attempt)
        directory = self._machine.directories.get(attempt)
        return None if directory is None else directory.held()

    async def terms(self, attempt: str) -> Terms:
        directory = self._machine.directories.get(attempt)
        if directory is None:
            return Terms()
        order = directory.order
        return Terms(leashed=order.lost_after_s > 0, start_timeout_s=order.start_timeout_s)

    def claim(self, attempt: str) -> Claim | None:
        directory = self._machine.directory(attempt)
        if directory.holder is not None or self.process.dead:
            return None
        claim = directory.holder = SimulatedClaim(self.process, self._machine, directory)
        return claim

    async def until_shim_gone(self, attempt: str) -> None:
        while (directory := self._machine.directories.get(attempt)) is not None:
            if directory.holder is None or isinstance(directory.holder, SimulatedClaim):
                return
            gone = asyncio.Event()
            directory.waiting.append(gone)
            await gone.wait()

    async def ask(self, attempt: str, request: Request | None) -> None:
        """An agent that is killed right after its record does not tell."""
        directory = self._machine.directory(attempt)

        def write() -> None:
            self._machine.need_room()
            if isinstance(request, files.Stop):
                directory.stop = request
            elif request is not None:
                directory.signals = request
            directory.changed()

        if request is not None:
            await self.process.write(write)
        shim = self._machine.shims.get(attempt)
        if shim is not None and directory.started is not None and not self.process.dead:
            shim.told()

    async def release(self, attempt: str) -> None:
        def write() -> None:
            self._machine.bury(attempt, durable=False)
            self._machine.remove(attempt)

        await self.process.write(write)

    async def bury(self, attempt: str, why: Refusal = REVOKED) -> None:
        def write() -> None:
            self._machine.need_room()
            self._machine.bury(attempt, why, durable=True)

        await self.process.write(write)

    def buried(self, attempt: str) -> Refusal | None:
        _, why = self._machine.tombstones.get(attempt, (0.0, None))
        return why

    async def prune(self, before: float) -> int:
        old = [attempt for attempt, (at, _) in self._machine.tombstones.items() if at < before]
        for attempt in old:
            del self._machine.tombstones[attempt]
        return len(old)

    def watch(
        self,
        attempt: str,
        changed: Callable[[], None],
        output: Callable[[], None] | None = None,
    ) -> Watch:
        return SimulatedWatch(self._machine.directory(attempt), changed)

    def spool(self, attempt: str) -> Spool:
        split_attempt(attempt)
        return SimulatedSpool(self._machine, attempt)

    def facts(self) -> FactsMessage:
        return FactsMessage(os="simulated", cpus=1, boot_id=self._machine.boot_id)

    def load(self) -> LoadMessage:
        return LoadMessage(disk_free=self._machine.free_bytes)

    def free_bytes(self) -> int:
        return self._machine.free_bytes

    def contact(self) -> None:
        self._machine.contact_at = self._machine.clock.monotonic()


class SimulatedClaim:
    """The lock of one attempt in the agent's hand."""

    def __init__(
        self, owner: AgentProcess, machine: SimulatedMachine, directory: Directory
    ) -> None:
        self.owner = owner
        self._machine = machine
        self._directory = directory

    async def start(self) -> int:
        await asyncio.sleep(FORK_S)
        if self._directory.holder is not self or self._machine.no_forks:
            self.close()
            raise Broken("spawner", "The spawner died before it answered.")
        if self._directory.started is not None or self._directory.end is not None:
            self.close()
            raise Broken("spawner", f"{self._directory.attempt} was started before.")
        shim = self._machine.fork_shim(self._directory)
        return shim.identity.pid

    async def clear(self, held: Held) -> Remains:
        await asyncio.sleep(WRITE_S)
        rebooted = held.started is not None and held.started.boot_id != self._machine.boot_id
        self._directory.sync()
        return Remains(streams=self._directory.stream_ends(), survivors=0, rebooted=rebooted)

    async def end(self, end: files.Exit) -> None:
        await asyncio.sleep(WRITE_S)
        self._machine.need_room()
        if self._directory.holder is self:
            self._directory.end = end
            self._directory.changed()

    def close(self) -> None:
        if self._directory.holder is self:
            self._directory.freed()


class SimulatedWatch:
    """A callback for one directory."""

    def __init__(self, directory: Directory, changed: Callable[[], None]) -> None:
        self._directory = directory
        directory.watchers[self] = changed

    @property
    def patience_s(self) -> float:
        return PATIENCE_S

    def close(self) -> None:
        self._directory.watchers.pop(self, None)


class SimulatedSpool:
    """The output files of one attempt."""

    def __init__(self, machine: SimulatedMachine, attempt: str) -> None:
        self._machine = machine
        self._attempt = attempt

    async def size(self, name: str) -> int:
        return len(self._data(name))

    async def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self._data(name)[offset : offset + length])

    async def read_behind(self, room: int, name: str, offset: int, length: int) -> bytearray:
        return bytearray(room) + await self.read(name, offset, length)

    def acked(self) -> dict[str, int]:
        directory = self._machine.directories.get(self._attempt)
        return {} if directory is None else dict(directory.acked)

    def save_acked(self, offsets: dict[str, int]) -> None:
        directory = self._machine.directories.get(self._attempt)
        if directory is not None and not self._machine.full:
            directory.acked = dict(offsets)

    def close(self) -> None:
        """Nothing is open."""

    def _data(self, name: str) -> bytearray:
        directory = self._machine.directories.get(self._attempt)
        return bytearray() if directory is None else directory.output[name]
