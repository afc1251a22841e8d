"""P4: 200 MB of output through a run, kept durably, into /dev/null; and the server's memory."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import rigs
from bench.ssh import Ssh
from quarterdeck.client.http import Connection

CLAIM = "P4"
MIB = 1 << 20
SIZE_MB = 200
TURNS = 4
SAMPLE_S = 0.05
SEALED_WITHIN_S = 60.0


def measure(up: rigs.Up, ssh: Ssh, size_mb: int, turns: int) -> rigs.Report:
    """`cat` of a file of log lines, by turns; a local `cat` into a pipe is the floor."""
    report = rigs.Report(
        "throughput", CLAIM, "200 MB of output at least 1.0 x ssh; server memory flat"
    )
    lines, noise = up.data / "lines", up.data / "noise"
    _write(lines, size_mb, text=True)
    _write(noise, size_mb, text=False)
    shell = '"$@" | cat'
    contestants = {
        "ours": (up.run("cat", str(lines)), up.env),
        "binary": (up.run("cat", str(noise)), up.env),
        "plain": ([*ssh.plain, "cat", str(lines)], None),
        "control": ([*ssh.control, "cat", str(lines)], None),
        "pipe": (["sh", "-c", shell, "sh", "cat", str(lines)], None),
    }
    memory: list[tuple[float, float, float]] = []
    sealed: list[float] = []
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, (words, env) in contestants.items():
            call = rigs.shell(words, env)
            if name in ("ours", "binary"):
                with _watched(up.server_pid) as seen:
                    spent = rigs.timed(call)
                    sealed.append(rigs.timed(lambda: _until_sealed(up)) / 1000)
                memory.append((seen[0], max(seen), seen[-1]))
            else:
                spent = rigs.timed(call)
            took[name].append(size_mb / spent * 1000)
    report.add("floor: cat | cat", took["pipe"], "MB/s")
    ours = report.add("qd run, lines", took["ours"], "MB/s")
    report.add("qd run, random bytes", took["binary"], "MB/s")
    plain = report.add("ssh", took["plain"], "MB/s")
    control = report.add("ssh over a ControlMaster", took["control"], "MB/s")
    report.add("and archived so long after the end", sealed, "s")
    report.compare("ours / ssh", ours.median / plain.median, 1.0, at_least=True)
    report.compare("ours / ControlMaster", ours.median / control.median, None)
    before, most, after = zip(*memory, strict=True)
    report.notes.append(
        f"server memory in MiB, first run to last: before {_row(before)}; most {_row(most)}; "
        f"after {_row(after)}"
    )
    return report


def _until_sealed(up: rigs.Up) -> None:
    """The log of the last run is put into the archive after its end; the next turn waits for it."""
    server = Connection(up.ready["url"], up.ready["token"])
    until = time.monotonic() + SEALED_WITHIN_S
    while time.monotonic() < until:
        (task,) = server.get("/v1/runs/last")["tasks"]
        if all(attempt["sealed"] for attempt in task["attempts"]):
            return
        time.sleep(SAMPLE_S)
    raise SystemExit("The log was not sealed.")


def _row(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.0f}" for value in values)


def _write(path: Path, size_mb: int, *, text: bool) -> None:
    """Made from a fixed seed: lines as of a log, or bytes that are no text."""
    chance = random.Random(4)
    if text:
        words = [f"{chance.getrandbits(48):x}" for _ in range(400)]
        piece = "".join(
            f"2026-01-01T00:00:{at % 60:02d} info {' '.join(chance.sample(words, 6))}\n"
            for at in range(8000)
        ).encode()
    else:
        piece = chance.randbytes(MIB)
    with path.open("wb") as file:
        left = size_mb * 1_000_000
        while left > 0:
            file.write(piece[:left])
            left -= len(piece)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """The resident memory of a process, MiB, looked at all the time."""
    seen = [resident(pid)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(SAMPLE_S):
            seen.append(resident(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()
        seen.append(resident(pid))


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main(quick: bool) -> rigs.Report:
    with rigs.both() as (up, ssh):
        return measure(up, ssh, 2 if quick else SIZE_MB, 1 if quick else TURNS)


if __name__ == "__main__":
    rigs.entry(main)
