"""The processes of simulated agents beside a `qd up` without nodes, and what all of it costs."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from bench import rigs
from bench.idle import cpu_s
from bench.simulated import Task, Told
from quarterdeck.wire.codec import decode

DEADLINE_S = 600.0
LOOK_S = 0.05


class Crowd:
    """The processes of the simulated agents; all end with this one."""

    def __init__(self, up: rigs.Up) -> None:
        self._up = up
        self._processes: list[subprocess.Popen[bytes]] = []
        self.nodes: list[str] = []

    def grow(self, processes: int, each: int) -> float:
        """Start so many agents more; seconds until the last one has beaten."""
        began = time.perf_counter()
        token = (self._up.data / "server" / "tokens").read_text().split()[1]
        started = []
        for _ in range(processes):
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.simulated"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            first = len(self._processes) * each
            self._processes.append(process)
            started.append(process)
            task = Task(url=self._up.ready["url"], token=token, first=first, count=each)
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            process.stdin.flush()
        for process in started:
            self.nodes += _told(process).nodes
        return time.perf_counter() - began

    def told(self) -> list[Told]:
        """What every process says now."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        return [_told(process) for process in self._processes]

    def until_released(self) -> float:
        """Seconds until no agent holds an attempt any more: all logs are archived."""
        began = time.perf_counter()
        until("no attempt held", lambda: not sum(told.held for told in self.told()))
        return time.perf_counter() - began

    def cpu_s(self) -> float:
        return sum(cpu_s(process.pid) for process in self._processes)

    def stop(self) -> None:
        """Their input ends, and so do they."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(DEADLINE_S / 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _told(process: subprocess.Popen[bytes]) -> Told:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"A process of simulated agents ended with {process.wait()}.")
    told: Told = decode(base64.b64decode(line), Told)
    return told


def until(what: str, seen: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not seen():
        if time.monotonic() > until:
            raise SystemExit(f"After {DEADLINE_S:.0f} s still waiting for: {what}.")
        time.sleep(LOOK_S)


@contextlib.contextmanager
def crowd() -> Iterator[tuple[rigs.Up, Crowd]]:
    """A fleet without agents, for the time of a block."""
    with rigs.up(nodes=0) as up:
        agents = Crowd(up)
        try:
            yield up, agents
        finally:
            agents.stop()


class Spent:
    """Processor time of server, fabric and agents between two looks."""

    def __init__(self, up: rigs.Up, agents: Crowd) -> None:
        self._up, self._agents = up, agents
        self._before = self._now()
        self._began = time.monotonic()

    def _now(self) -> dict[str, float]:
        up = self._up
        return {
            "server": cpu_s(up.server_pid),
            "fabric": cpu_s(up.fabric_pid),
            "agents": self._agents.cpu_s(),
        }

    def seconds(self) -> dict[str, float]:
        now = self._now()
        return {name: now[name] - self._before[name] for name in now}

    def percent(self) -> dict[str, float]:
        lasted = time.monotonic() - self._began
        return {name: 100 * spent / lasted for name, spent in self.seconds().items()}
