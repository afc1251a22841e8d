"""P10: what `tt` adds to a command, and how long a line takes from there to a viewer over SSE.

The sender has a token of kind send, the viewer one of kind watch and the stream of its name.
Peers are rtail and log.io (bench/peers.py), which `./dev bench trace` gets from npm by itself.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import quarterdeck.tt
from bench import rigs
from bench.npm import NotInstalled
from bench.peers import Latencies, peers
from quarterdeck.client.http import Connection

CLAIM = "P10"
COMMANDS = 60
LINES = 200
TURNS = 3
PAUSE_S = 0.01
NOBODY = "http://127.0.0.1:1"
TT = str(Path(sys.executable).with_name("tt"))
# a gate, so that every viewer is there before the first line
WRITER = (
    "import sys, time\n"
    "open(sys.argv[1]).read()\n"
    "for _ in range(int(sys.argv[2])):\n"
    "    time.sleep(float(sys.argv[3]))\n"
    "    print(time.monotonic_ns(), flush=True)\n"
)


def added(report: rigs.Report, env: dict[str, str], state: str, rounds: int) -> None:
    """What a traced `true` takes beyond `true`, with the server and without."""
    # as an installed one is; a checkout may be told to keep no compiled files
    compileall.compile_dir(Path(quarterdeck.tt.__file__).parent, quiet=2)
    alone = {**env, "TT_LINGER_S": "0", "XDG_STATE_HOME": state}
    contestants: dict[str, Callable[[], object]] = {
        "true": rigs.shell(["true"]),
        "python": rigs.shell([sys.executable, "-c", "pass"]),
        "up": rigs.shell([TT, "-n", "bench-true", "true", "x"], env),
        "down": rigs.shell([TT, "--url", NOBODY, "--token", "x", "true", "x"], alone),
    }
    took = rigs.by_turns(contestants, rounds)
    plain = report.add("true", took["true"], "ms")
    report.add("floor: python that does nothing", took["python"], "ms")
    up = report.add("tt true, its trace begun", took["up"], "ms")
    down = report.add("tt true, nobody listens", took["down"], "ms")
    report.compare("tt true - true, p50, ms", up.median - plain.median, 60.0)
    report.compare("tt true - true, nobody listens, p50, ms", down.median - plain.median, 60.0)


def sending(up: rigs.Up) -> dict[str, str]:
    """The environment of a host that sends: an address and a token of kind send."""
    token = _token(up, "send")
    alone = {key: value for key, value in up.env.items() if key != "QD_DATA"}
    return alone | {"TT_URL": up.ready["url"], "TT_TOKEN": token}


def _token(up: rigs.Up, kind: str) -> str:
    server = Connection(up.ready["url"], up.ready["token"])
    return str(server.post("/v1/tokens", {"kind": kind})["token"])


def ours(up: rigs.Up, env: dict[str, str], words: list[str]) -> Latencies:
    """`tt` and a viewer of the name that it traces under, there before the trace."""
    server = Connection(up.ready["url"], _token(up, "watch"))

    def measured(gate: Path) -> list[float]:
        name = f"bench-{time.monotonic_ns()}"
        nothing = subprocess.DEVNULL
        traced = [TT, "-q", "-n", name, *words]
        found: list[float] = []
        events = server.events(f"/v1/trace/{name}/stream", None)
        with subprocess.Popen(traced, env=env, stdin=nothing, stdout=nothing):
            for event in events:
                now = time.monotonic_ns()
                kind = event.data["type"]
                if kind == "run":
                    gate.write_text("go")
                elif kind == "output":
                    found += [(now - int(line)) / 1e6 for line in event.data["data"].split()]
                elif kind == "task":
                    break
        return found

    return measured


def pipe(words: list[str]) -> Latencies:
    """The floor: nothing but a pipe."""

    def measured(gate: Path) -> list[float]:
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            gate.write_text("go")
            return [(time.monotonic_ns() - int(line)) / 1e6 for line in writer.stdout]

    return measured


def measure(up: rigs.Up, rounds: int, lines: int, turns: int) -> rigs.Report:
    """First the commands, then blocks of lines by turns."""
    report = rigs.Report("trace", CLAIM, "under 60 ms added; how late a line is, beside others")
    env = sending(up)
    with tempfile.TemporaryDirectory(prefix="qd-bench-", ignore_cleanup_errors=True) as name:
        added(report, env, name, rounds)
        gate = Path(name) / "gate"
        writer = Path(name) / "writer.py"
        writer.write_text(WRITER)
        words = [sys.executable, "-I", str(writer), str(gate), str(lines), str(PAUSE_S)]
        contestants = {"pipe": pipe(words), "tt": ours(up, env, words)}
        try:
            contestants |= peers(words, lines)
        except NotInstalled as error:
            report.notes.append(f"rtail and log.io were not measured: {error}")
        took: dict[str, list[float]] = {each: [] for each in contestants}
        for _ in range(turns):
            for each, measured in contestants.items():
                os.mkfifo(gate)
                took[each] += measured(gate)
                gate.unlink()
    _lines(report, took, lines * turns)
    return report


def _lines(report: rigs.Report, took: dict[str, list[float]], written: int) -> None:
    names = {"pipe": "a pipe, the floor", "tt": "tt to SSE"}
    for each, found in took.items():
        if not found:
            report.notes.append(f"{each}: not one line came")
            continue
        report.add(f"line: {names.get(each, f'{each} to its web interface')}", found, "ms")
        if len(found) < written:
            report.notes.append(f"{each}: {written - len(found)} of {written} lines did not come")
    shown = {each: (p50(found), p99(found)) for each, found in took.items() if found}
    for peer in ("rtail", "log.io"):
        if peer in shown:
            report.compare(f"ours / {peer}, p50", shown["tt"][0] / shown[peer][0], None)
            report.compare(f"ours / {peer}, p99", shown["tt"][1] / shown[peer][1], None)


def p50(values: list[float]) -> float:
    return rigs.percentile(values, 50)


def p99(values: list[float]) -> float:
    return rigs.percentile(values, 99)


def main(quick: bool) -> rigs.Report:
    with rigs.up() as started:
        return measure(started, *((5, 20, 1) if quick else (COMMANDS, LINES, TURNS)))


if __name__ == "__main__":
    rigs.entry(main)
