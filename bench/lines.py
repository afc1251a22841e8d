"""P3: how long a line takes from the write of the process to the reader of the viewer's output."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from bench import rigs
from bench.ssh import Ssh

CLAIM = "P3"
LINES = 100
TURNS = 5
PAUSE_S = 0.01
# prints the clock of the machine, one line at a time, after a moment for everybody to connect
WRITER = (
    "import sys, time\n"
    "time.sleep(0.3)\n"
    "for _ in range(int(sys.argv[1])):\n"
    "    time.sleep(float(sys.argv[2]))\n"
    "    print(time.monotonic_ns(), flush=True)\n"
)


def measure(up: rigs.Up, ssh: Ssh, lines: int, turns: int) -> rigs.Report:
    """Blocks of lines, by turns; a pipe without a network is the floor."""
    report = rigs.Report("lines", CLAIM, "p50 at most 2 ms, p99 at most 10 ms, at most 5 x ssh")
    writer = up.data / "writer.py"
    writer.write_text(WRITER)
    command = [sys.executable, "-I", str(writer), str(lines), str(PAUSE_S)]
    contestants = {
        "ours": up.run(*command),
        "plain": [*ssh.plain, *command],
        "control": [*ssh.control, *command],
        "pipe": command,
    }
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, words in contestants.items():
            took[name] += _latencies(words, up.env)
    report.add("floor: a pipe", took["pipe"], "ms")
    ours = report.add("qd run", took["ours"], "ms")
    plain = report.add("ssh", took["plain"], "ms")
    report.add("ssh over a ControlMaster", took["control"], "ms")
    report.compare("p50, ms", ours.median, 2.0)
    report.compare("p99, ms", ours.p99, 10.0)
    report.compare("ours / ssh, p50", ours.median / plain.median, 5.0)
    return report


def _latencies(words: Sequence[str], env: dict[str, str]) -> list[float]:
    found = []
    with subprocess.Popen(
        words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as viewer:
        assert viewer.stdout is not None
        for line in viewer.stdout:
            found.append((time.monotonic_ns() - int(line)) / 1e6)
    if viewer.returncode:
        raise SystemExit(f"{words[0]} ended with {viewer.returncode}.")
    return found


def main(quick: bool) -> rigs.Report:
    with rigs.both() as (up, ssh):
        return measure(up, ssh, 20 if quick else LINES, 1 if quick else TURNS)


if __name__ == "__main__":
    rigs.entry(main)
