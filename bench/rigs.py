"""What the scripts share: a `qd up` of their own, measuring by turns, figures and their report."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ssh import Ssh, sshd

QD = str(Path(sys.executable).with_name("qd"))
RESULTS = Path(__file__).with_name("results")
READY_WITHIN_S = 60.0
LOOK_S = 0.002


@dataclass(frozen=True)
class Figure:
    """What was measured of one thing: median and 99th percentile of `count` values."""

    what: str
    median: float
    p99: float
    unit: str
    count: int


@dataclass(frozen=True)
class Ratio:
    """One figure over another, and what was promised: at most (or at least) `goal`."""

    what: str
    value: float
    goal: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """None when nothing was promised."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass
class Report:
    """The figures of one claim; `live` ones are also told as they come."""

    name: str
    claim: str
    goal: str
    live: bool = False
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    yardsticks: list[float] = field(default_factory=lambda: [yardstick()])

    def add(self, what: str, values: Sequence[float], unit: str) -> Figure:
        """A figure of values."""
        figure = Figure(what, statistics.median(values), percentile(values, 99), unit, len(values))
        self.figures.append(figure)
        if self.live:
            print(f"  {what}: {figure.median:.3f} {unit}", file=sys.stderr, flush=True)
        return figure

    def compare(
        self, what: str, value: float, goal: float | None, *, at_least: bool = False
    ) -> None:
        """A ratio, or any number that has a goal."""
        self.ratios.append(Ratio(what, value, goal, at_least))

    def speed(self) -> str:
        """The yardstick before and after what was measured."""
        if len(self.yardsticks) == 1:
            self.yardsticks.append(yardstick())
        before, after = self.yardsticks
        return f"yardstick (a million additions): {before:.1f} ms before, {after:.1f} ms after"

    def text(self) -> str:
        """The report for people."""
        lines = [f"{self.claim} {self.name}: {self.goal}", f"  {machine()}", f"  {self.speed()}"]
        for one in self.figures:
            shown = f"{one.median:10.3f} {one.p99:10.3f} {one.unit:5} n={one.count}"
            lines.append(f"  {one.what:<46} {shown}")
        for ratio in self.ratios:
            goal = "" if ratio.goal is None else "at least" if ratio.at_least else "at most"
            verdict = (
                ""
                if ratio.met is None
                else f"{goal} {ratio.goal:g}: " + ("met" if ratio.met else "NOT met")
            )
            lines.append(f"  {ratio.what:<46} {ratio.value:10.3f} {verdict}".rstrip())
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def keep(self) -> Path:
        """Write the report to bench/results, with machine and date."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        ratios = [{**asdict(ratio), "met": ratio.met} for ratio in self.ratios]
        document = {
            "claim": self.claim,
            "goal": self.goal,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "yardstick": self.speed(),
            "figures": [_rounded(asdict(figure)) for figure in self.figures],
            "ratios": [_rounded(ratio) for ratio in ratios],
            "notes": self.notes,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
        return path


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def machine() -> str:
    """Where this runs and how busy it is."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{os.cpu_count()} x {model}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
        + (", real-time priority" if os.sched_getscheduler(0) != os.SCHED_OTHER else "")
    )


def yardstick() -> float:
    """Milliseconds of a fixed loop in pure Python, the median of five: how fast this machine is
    now. Figures of different hours are only compared by it."""
    return statistics.median(timed(_million_additions) for _ in range(5))


def _million_additions() -> int:
    total = 0
    for _ in range(1_000_000):
        total += 1
    return total


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def by_turns(
    contestants: dict[str, Callable[[], object]], rounds: int, warm: int = 2
) -> dict[str, list[float]]:
    """Milliseconds of each contestant, measured in turn, so that all meet the same noise."""
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warm + rounds):
        for name, work in contestants.items():
            spent = timed(work)
            if turn >= warm:
                took[name].append(spent)
    return took


def shell(words: Sequence[str], env: dict[str, str] | None = None) -> Callable[[], None]:
    """A contestant: one process from start to end, whose exit code must be 0."""

    def call() -> None:
        subprocess.run(
            words,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=env,
        )

    return call


class Up:
    """A `qd up`, with one node called after the host unless `nodes` says otherwise."""

    def __init__(self, data: Path, *, nodes: int = 1) -> None:
        self.data = data
        self._nodes = nodes
        self.env = {**os.environ, "QD_DATA": str(data)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ready(self) -> dict[str, Any]:
        """What `ready.json` says."""
        found: dict[str, Any] = json.loads((self.data / "ready.json").read_bytes())
        return found

    @property
    def node(self) -> str:
        """The name of the one node."""
        return str(next(iter(self.ready["pids"]["agents"])))

    @property
    def fabric_pid(self) -> int:
        return int(self.ready["pids"]["fabric"])

    @property
    def agent_pid(self) -> int:
        return int(self.ready["pids"]["agents"][self.node])

    @property
    def server_pid(self) -> int:
        return int(self.ready["pids"]["server"])

    def run(self, *words: str) -> list[str]:
        """The words of `qd run` on the node."""
        return [QD, "run", "-t", self.node, "--", *words]

    def start(self) -> float:
        """Start it; milliseconds until it is ready."""
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [QD, "up", "--listen", "127.0.0.1:0", "--nodes", str(self._nodes)],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = began + READY_WITHIN_S
        while not (self.data / "ready.json").exists():
            if self._process.poll() is not None or time.perf_counter() > until:
                raise SystemExit(f"qd up did not get ready; look into {self.data / 'log'}.")
            time.sleep(LOOK_S)
        return (time.perf_counter() - began) * 1000

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@contextlib.contextmanager
def up(*, nodes: int = 1) -> Iterator[Up]:
    """A `qd up` on a data directory of its own, for the time of a block."""
    with tempfile.TemporaryDirectory(prefix="qd-bench-") as name:
        started = Up(Path(name) / "data", nodes=nodes)
        try:
            started.start()
            yield started
        finally:
            started.stop()


@contextlib.contextmanager
def both() -> Iterator[tuple[Up, Ssh]]:
    """Ours and the peer, the peer with its ControlMaster open."""
    with sshd() as ssh, ssh.connection(), up() as started:
        yield started, ssh


def floors(report: Report, folder: Path, rounds: int) -> None:
    """What the machine itself needs, in the same run: an fsync on this disk, a fork and exec."""
    path = folder / "fsync-probe"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def synced() -> None:
        os.write(fd, b"x" * 200)
        os.fsync(fd)

    def forked() -> None:
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)

    try:
        took = by_turns({"fsync": synced, "fork": forked}, rounds)
    finally:
        os.close(fd)
        path.unlink()
    report.add("floor: one append and fsync on this disk", took["fsync"], "ms")
    report.add("floor: spawn /bin/true and reap it", took["fork"], "ms")


def entry(report: Callable[[bool], Report]) -> None:
    """What a script does when it is started: measure, print, keep; `--quick` keeps nothing."""
    quick = "--quick" in sys.argv[1:]
    done = report(quick)
    print(done.text(), flush=True)
    if not quick:
        print(f"  kept in {done.keep().relative_to(Path.cwd())}")
