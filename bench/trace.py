"""P10: what `tt` adds to a command, and how long a line takes from there to a viewer over SSE.

The peer is rtail (its client, its server, a client of its web interface) where the folder that
QD_BENCH_NPM names has it: `npm install --ignore-scripts rtail@0.2.1`, with node on PATH.
"""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import quarterdeck.tt
from bench import rigs
from quarterdeck.client.http import Connection, Event

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
VIEWER = """
const viewer = require('socket.io-client')(process.argv[1]);
viewer.on('connect', () => viewer.emit('select stream', 'bench'));
viewer.on('backlog', () => console.log('ready'));
viewer.on('line', (m) => console.log(Number(process.hrtime.bigint() - BigInt(m.content)) / 1e6));
"""

Latencies = Callable[[Path], list[float]]


def added(report: rigs.Report, env: dict[str, str], state: str, rounds: int) -> None:
    """What a traced `true` takes beyond `true`, with the server and without."""
    # as an installed one is; a checkout may be told to keep no compiled files
    compileall.compile_dir(Path(quarterdeck.tt.__file__).parent, quiet=2)
    alone = {key: value for key, value in env.items() if key != "QD_DATA"}
    alone |= {"TT_LINGER_S": "0", "XDG_STATE_HOME": state}
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


def ours(up: rigs.Up, words: list[str]) -> Latencies:
    """`tt` and a viewer of the run's events."""

    def measured(gate: Path) -> list[float]:
        name = f"bench-{time.monotonic_ns()}"
        ready = up.ready
        server = Connection(ready["url"], ready["token"])
        nothing = subprocess.DEVNULL
        traced = [TT, "-q", "-n", name, *words]
        with subprocess.Popen(traced, env=up.env, stdin=nothing, stdout=nothing):
            found: list[dict[str, str]] = []
            while not found:
                found = server.get("/v1/traces", name=name)["items"]
            events = server.events(f"/v1/runs/{found[0]['trace']}/events", None)
            return list(_of_events(events, gate))

    return measured


def _of_events(events: Iterator[Event], gate: Path) -> Iterator[float]:
    opened = False
    for event in events:
        if not opened:  # the stream is there
            opened = True
            gate.write_text("go")
        if event.data["type"] == "output":
            now = time.monotonic_ns()
            for line in event.data["data"].split():
                yield (now - int(line)) / 1e6
        elif event.data["type"] == "ended":
            return


def pipe(words: list[str]) -> Latencies:
    """The floor: nothing but a pipe."""

    def measured(gate: Path) -> list[float]:
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            gate.write_text("go")
            return [(time.monotonic_ns() - int(line)) / 1e6 for line in writer.stdout]

    return measured


def rtail(folder: Path, words: list[str], lines: int) -> Latencies:
    """rtail's client, server, and a client of the server's web interface, which prints
    milliseconds itself."""
    package = folder / "node_modules" / "rtail"
    env = {**os.environ, "NODE_PATH": f"{package / 'node_modules'}:{folder / 'node_modules'}"}
    cli = package / "cli"

    def measured(gate: Path) -> list[float]:
        web, udp = _free_port(), _free_port()
        ports = [f"--web-port={web}", f"--udp-port={udp}"]
        with ExitStack() as stack:
            stack.enter_context(_running(["node", str(cli / "rtail-server.js"), *ports], env))
            _listening(web)
            client = ["node", str(cli / "rtail-client.js"), "--id=bench", f"--port={udp}", "-m"]
            piped = ["sh", "-c", '"$@" | ' + " ".join(client), "sh", *words]
            stack.enter_context(_running(piped, env))
            seen = ["node", "-e", VIEWER, f"http://127.0.0.1:{web}"]
            viewer = stack.enter_context(_running(seen, env))
            assert viewer.stdout is not None
            while viewer.stdout.readline() != b"ready\n":
                pass
            gate.write_text("go")
            return [float(viewer.stdout.readline()) for _ in range(lines)]

    return measured


@contextmanager
def _running(words: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listening(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("rtail's server did not get ready.")


def measure(up: rigs.Up, rounds: int, lines: int, turns: int) -> rigs.Report:
    """First the commands, then blocks of lines by turns."""
    report = rigs.Report("trace", CLAIM, "under 60 ms added; how late a line is, beside rtail")
    peer = os.environ.get("QD_BENCH_NPM", "")
    with tempfile.TemporaryDirectory(prefix="qd-bench-", ignore_cleanup_errors=True) as name:
        added(report, up.env, name, rounds)
        gate = Path(name) / "gate"
        writer = Path(name) / "writer.py"
        writer.write_text(WRITER)
        words = [sys.executable, "-I", str(writer), str(gate), str(lines), str(PAUSE_S)]
        contestants = {"tt": ours(up, words), "pipe": pipe(words)}
        if peer and shutil.which("node"):
            contestants["rtail"] = rtail(Path(peer), words, lines)
        took: dict[str, list[float]] = {each: [] for each in contestants}
        for _ in range(turns):
            for each, measured in contestants.items():
                os.mkfifo(gate)
                took[each] += measured(gate)
                gate.unlink()
    report.add("line: a pipe, the floor", took["pipe"], "ms")
    shown = report.add("line: tt to SSE", took["tt"], "ms")
    if "rtail" not in took:
        report.notes.append("rtail was not measured: QD_BENCH_NPM names no folder that has it")
        return report
    theirs = report.add("line: rtail to its web interface", took["rtail"], "ms")
    report.compare("ours / rtail, p50", shown.median / theirs.median, None)
    report.compare("ours / rtail, p99", shown.p99 / theirs.p99, None)
    return report


def main(quick: bool) -> rigs.Report:
    with rigs.up() as started:
        return measure(started, *((5, 20, 1) if quick else (COMMANDS, LINES, TURNS)))


if __name__ == "__main__":
    rigs.entry(main)
