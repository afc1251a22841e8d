"""Machines for one suite of the host protocol: real files and processes, and simulated."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Protocol

from bench.ssh import Ssh
from quarterdeck.agent.held import Held
from quarterdeck.agent.host import Host
from quarterdeck.agent.local import RealHost
from quarterdeck.agent.simulated.behaviour import piece
from quarterdeck.agent.simulated.host import SimulatedHost
from quarterdeck.agent.simulated.machine import SimulatedMachine
from quarterdeck.agent.ssh.host import SshHost
from quarterdeck.agent.ssh.link import FarLink
from quarterdeck.agent.ssh.road import reach
from quarterdeck.service import Services, SystemClock
from quarterdeck.settings.environment import task_environment
from quarterdeck.wire.agentless import AgentlessMessage


class Bench(Protocol):
    """A machine for one test: hosts on it, orders it understands, the death of a shim."""

    def host(self) -> Host: ...

    def order(
        self, *, ticks: int = 1, every: float = 0.02, exit: int = 0, stubborn: bool = False
    ) -> tuple[str, ...]: ...

    def written(self, attempt: str, ticks: int) -> bytes:
        """What a command of so many ticks (fewer than 4) writes to stdout."""
        ...

    def kill_shim(self, held: Held) -> None: ...


class RealBench:
    """This machine, with a directory of the test's own."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def host(self) -> Host:
        return RealHost(self._state, task_environment())

    def order(
        self, *, ticks: int = 1, every: float = 0.02, exit: int = 0, stubborn: bool = False
    ) -> tuple[str, ...]:
        lines = f"for n in $(seq {ticks}); do sleep {every}; echo line $n; done; exit {exit}"
        return ("sh", "-c", f"trap '' TERM; {lines}" if stubborn else lines)

    def written(self, attempt: str, ticks: int) -> bytes:
        return b"".join(b"line %d\n" % number for number in range(1, ticks + 1))

    def kill_shim(self, held: Held) -> None:
        assert held.started is not None
        os.kill(held.started.shim.pid, signal.SIGKILL)


class SshBench(RealBench):
    """This machine, reached through an sshd of the tests."""

    def __init__(self, ssh: Ssh, folder: Path, services: Services) -> None:
        super().__init__(folder)
        self._folder = folder
        self._services = services
        self._node = AgentlessMessage(
            id=folder.name,
            name="far",
            place=f"{ssh.user}@127.0.0.1:{ssh.port}",
            identity=str(ssh.key),
            accept_new=True,
        )

    def host(self) -> Host:
        return SshHost(FarLink(lambda: reach(self._node, self._folder), self._services))


class SimulatedBench:
    """A machine in memory."""

    def __init__(self) -> None:
        self._machine = SimulatedMachine("m", SystemClock())

    def host(self) -> Host:
        return SimulatedHost(self._machine)

    def order(
        self, *, ticks: int = 1, every: float = 0.02, exit: int = 0, stubborn: bool = False
    ) -> tuple[str, ...]:
        words = ("sim", f"ticks={ticks}", f"every={every}", f"exit={exit}")
        return (*words, "stubborn") if stubborn else words

    def written(self, attempt: str, ticks: int) -> bytes:
        return b"".join(piece(attempt, number, 64) for number in range(ticks))

    def kill_shim(self, held: Held) -> None:
        assert self._machine.kill_shim(held.attempt)
