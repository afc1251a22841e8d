"""Simulate many seeds on all processors: `python -m tests.sim.many [--seeds N] [--seed S]`.

Prints what failed as it fails, with the end of its trace, and figures at the end; 0 when all held.
"""

from __future__ import annotations

import argparse
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 1000
TELL_EVERY_S = 30.0


class Figures:
    """What the lines of the simulations add up to."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.traces: dict[str, str] = {}  # seed to digest
        self.seeds = 0
        self.attempts = 0
        self.virtual_s = 0
        self.cpu_s = 0.0

    def take(self, line: str) -> bool:
        """Whether the line was the verdict on a seed."""
        words = line.split()
        if words[:1] != ["seed"] or len(words) < 12 or words[4] != "attempts,":
            return False
        self.seeds += 1
        self.attempts += int(words[3])
        self.virtual_s += int(words[5])
        self.cpu_s += float(words[8])
        self.traces[words[1]] = words[-1]
        if words[2] != "ok":
            self.failed.append(words[1])
        return True

    def __str__(self) -> str:
        return (
            f"{self.seeds} seeds, {len(self.failed)} failed; {self.attempts} attempts, "
            f"{self.virtual_s / 3600:.1f} virtual hours in {self.cpu_s:.0f} s of CPU"
        )


def simulation(first: int, count: int, step: int, mutation: str = "") -> subprocess.Popen[str]:
    """A process that simulates `count` seeds from `first` on, in the order of one hash seed."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.sim.simulate",
            f"--seed={first}",
            f"--seeds={count}",
            f"--step={step}",
            *([f"--mutation={mutation}"] if mutation else []),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(processes: list[subprocess.Popen[str]]) -> Iterator[str]:
    """What they say, as they say it; they are ended when nobody listens any more."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while selector.get_map():
                for key, _ in selector.select():
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if line:
                        yield line.rstrip("\n")
                    else:
                        selector.unregister(key.fileobj)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def simulate_many(first: int, count: int, processes: int) -> tuple[Figures, list[str]]:
    """The figures, and all that was said about seeds that failed."""
    shares = [len(range(at, count, processes)) for at in range(processes)]
    started = [simulation(first + at, n, processes) for at, n in enumerate(shares) if n]
    figures, said = Figures(), []
    told_at = time.monotonic()
    for line in lines(started):
        if not (figures.take(line) and " ok " in line):
            said.append(line)
            print(line, flush=True)
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            print(figures, flush=True)
    return figures, said


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev sim")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many (1,000)")
    parser.add_argument("--seed", type=int, default=1, help="the first one, as a failure named it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    known = parser.parse_args()
    figures, _ = simulate_many(known.seed, known.seeds, known.processes)
    print(figures)
    for seed in figures.failed:
        print(f"again: ./dev sim --seed {seed} --seeds 1")
    return 0 if figures.seeds == known.seeds and not figures.failed else 1


if __name__ == "__main__":
    sys.exit(main())
