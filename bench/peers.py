"""The peers of a traced line, with whatever they need: rtail and log.io, their senders, servers and
a client of their web interfaces. Both come from npm by the lock in tests/clients/foreign.

log.io is 0.3.4, which the registry has. Its harvester reads a file that grows, so that is where the
lines are written to; it may read a line twice, or miss one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from bench.npm import NODE, installed

CLIENTS = Path(__file__).parents[1] / "tests" / "clients" / "foreign"
READY_WITHIN_S = 20.0
QUIET_S = 3.0
"""After so long without a line no other is waited for."""
# hrtime and Python's monotonic clock are the same
RTAIL_VIEWER = """
const viewer = require('socket.io-client')(process.argv[1]);
viewer.on('connect', () => viewer.emit('select stream', 'bench'));
viewer.on('backlog', () => console.log('ready'));
viewer.on('line', (m) => console.log(`${m.content} ${process.hrtime.bigint()}`));
"""
LOGIO_VIEWER = """
const viewer = require('socket.io-client').connect(process.argv[1], {transports: ['websocket']});
viewer.on('add_node', () => viewer.emit('watch', 'bench:bench'));
viewer.on('add_pair', () => console.log('ready'));
viewer.on('new_log', (m) => console.log(`${m.message} ${process.hrtime.bigint()}`));
"""

Latencies = Callable[[Path], list[float]]
"""Gives milliseconds for each line, once the writers' gate was opened."""


def peers(words: Sequence[str], lines: int) -> dict[str, Latencies]:
    """Each peer by its name; `words` write the lines. Raises NotInstalled."""
    modules = installed(CLIENTS)
    return {"rtail": _rtail(modules, words, lines), "log.io": _logio(modules, words, lines)}


def _rtail(modules: Path, words: Sequence[str], lines: int) -> Latencies:
    cli = modules / "rtail" / "cli"

    def measured(gate: Path) -> list[float]:
        web, udp = _free_port(socket.SOCK_STREAM), _free_port(socket.SOCK_DGRAM)
        with _home() as home, ExitStack() as stack:
            env = _environment(home, modules / "rtail" / "node_modules", modules)
            ports = [f"--web-port={web}", f"--udp-port={udp}"]
            stack.enter_context(_running([NODE, str(cli / "rtail-server.js"), *ports], env))
            _listening(web)
            client = [NODE, str(cli / "rtail-client.js"), "--id=bench", f"--port={udp}", "-m"]
            writer = stack.enter_context(_running(words, env))
            stack.enter_context(_running(client, env, writer.stdout))
            return _watched(RTAIL_VIEWER, web, env, gate, lines)

    return measured


def _logio(modules: Path, words: Sequence[str], lines: int) -> Latencies:
    programs = modules / "log.io" / "bin"

    def measured(gate: Path) -> list[float]:
        web, tcp = _free_port(socket.SOCK_STREAM), _free_port(socket.SOCK_STREAM)
        with _home() as home, ExitStack() as stack:
            env = _environment(home, modules)
            log = home / "lines.log"
            log.touch()
            server = {"host": "127.0.0.1", "port": tcp}
            streams = {"nodeName": "bench", "logStreams": {"bench": [str(log)]}, "server": server}
            _configure(home, "log_server", server)
            _configure(home, "web_server", {"host": "127.0.0.1", "port": web})
            _configure(home, "harvester", streams)
            stack.enter_context(_running([NODE, str(programs / "log.io-server")], env))
            _listening(web)
            _listening(tcp)
            stack.enter_context(_running([NODE, str(programs / "log.io-harvester")], env))
            with log.open("ab") as file:
                stack.enter_context(_running(words, env, stdout=file.fileno()))
            return _watched(LOGIO_VIEWER, web, env, gate, lines)

    return measured


def _configure(home: Path, name: str, settings: Mapping[str, object]) -> None:
    folder = home / ".log.io"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.conf").write_text(f"exports.config = {json.dumps(settings)}")


def _watched(script: str, port: int, env: dict[str, str], gate: Path, lines: int) -> list[float]:
    """What a viewer tells of the lines, each once; what is torn is none."""
    found: dict[int, float] = {}
    with _running([NODE, "-e", script, f"http://127.0.0.1:{port}"], env) as viewer:
        said = _said(viewer, READY_WITHIN_S)
        if next(said, "") != "ready":
            raise SystemExit("The viewer of a peer did not get ready.")
        began = time.monotonic_ns()
        gate.write_text("go")
        for told in _said(viewer, QUIET_S):
            line, _, at = told.rpartition(" ")
            if line.isdigit() and began <= int(line) <= int(at):
                found.setdefault(int(line), (int(at) - int(line)) / 1e6)
            if len(found) == lines:
                break
    return list(found.values())


def _said(viewer: subprocess.Popen[bytes], patience_s: float) -> Iterator[str]:
    """Line by line, until none comes for a while."""
    assert viewer.stdout is not None
    held = b""
    while select.select([viewer.stdout], [], [], patience_s)[0]:
        piece = os.read(viewer.stdout.fileno(), 65536)
        if not piece:
            return
        *whole, held = (held + piece).split(b"\n")
        yield from (line.decode() for line in whole)


@contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="qd-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _environment(home: Path, *modules: Path) -> dict[str, str]:
    """These programs keep their settings at home, and ask for updates unless told not to."""
    paths = ":".join(map(str, modules))
    return {**os.environ, "HOME": str(home), "NO_UPDATE_NOTIFIER": "1", "NODE_PATH": paths}


@contextmanager
def _running(
    words: Sequence[str],
    env: dict[str, str],
    stdin: IO[bytes] | None = None,
    stdout: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words,
        env=env,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listening(port: int) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("The server of a peer did not get ready.")
