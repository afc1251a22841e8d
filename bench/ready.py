"""P10: from `qd up` to ready, on a new data directory and on one that was used before."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench import rigs

CLAIM = "P10"
TURNS = 5


def measure(folder: Path, turns: int) -> rigs.Report:
    """One new directory per turn, started twice: cold (keys, tables, enrolment), then warm."""
    report = rigs.Report("ready", CLAIM, "`qd up` ready within 3 s")
    cold: list[float] = []
    warm: list[float] = []
    imports: list[float] = []
    for turn in range(turns):
        up = rigs.Up(folder / f"data{turn}")
        for took in (cold, warm):
            try:
                took.append(up.start() / 1000)
            finally:
                up.stop()
        imports.append(
            rigs.timed(
                rigs.shell([sys.executable, "-c", "import quarterdeck.api.serve"]),
            )
            / 1000
        )
    first = report.add("qd up to ready, new directory", cold, "s")
    second = report.add("qd up to ready, used directory", warm, "s")
    report.add("of which: one process imports the server", imports, "s")
    report.compare("new directory, s", first.median, 3.0)
    report.compare("used directory, s", second.median, 3.0)
    return report


def main(quick: bool) -> rigs.Report:
    with tempfile.TemporaryDirectory(prefix="qd-bench-") as name:
        return measure(Path(name), 1 if quick else TURNS)


if __name__ == "__main__":
    rigs.entry(main)
