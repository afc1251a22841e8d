"""An agent on another machine, seen from here: ready, at work, cut off."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.machine import Machine
from tests.e2e.nginx import Nginx
from tests.e2e.up import Up, wait_for

BYTES = 8 << 20
NOISE = (
    "import hashlib, sys; "
    f"sys.stdout.buffer.write(b''.join(hashlib.sha512(b'%d' % k).digest() "
    f"for k in range({BYTES} // 64)))"
)


@contextlib.contextmanager
def agent(
    machine: Machine, log: Path, *words: str, env: dict[str, str] | None = None
) -> Iterator[Path]:
    """An agent over there; its log."""
    state = str(log.with_suffix(""))
    process = machine.popen("agent", "--state", state, *words, log=log, env=env)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(30)


def state_of(up: Up, name: str) -> str:
    for node in up.api("/v1/nodes")["items"]:
        if node["node"] == name:
            return str(node["state"])
    return ""


def ready(up: Up, name: str) -> None:
    wait_for(f"{name} to be ready", lambda: state_of(up, name) == "ready")


def port_of(up: Up) -> str:
    return str(up.ready["url"].rpartition(":")[2])


def works_to_the_byte(up: Up, name: str) -> None:
    done = up.qd("run", "-t", name, "--", "python3", "-c", NOISE, within_s=60)
    assert done.returncode == 0, done.stderr
    wanted = b"".join(hashlib.sha512(b"%d" % k).digest() for k in range(BYTES // 64))
    assert len(done.stdout) == len(wanted) and done.stdout == wanted
    both = up.qd("run", "-t", name, "--", "echo out; echo err >&2; exit 3")
    assert (both.returncode, both.stdout, both.stderr[:4]) == (3, b"out\n", b"err\n")


def survives_a_cut(up: Up, machine: Machine, name: str, flag: Path, proxy: Nginx) -> None:
    """The cable is pulled, and what stood by it is gone when it is plugged in again."""
    done = flag.with_name("done")
    script = f"echo before; until [ -e {flag} ]; do sleep 0.1; done; echo after; touch {done}"
    run = up.detach(name, "--", script)
    wait_for("the task to run", lambda: up.api(f"/v1/runs/{run}")["state"] == "running")
    machine.pull()
    flag.touch()
    wait_for("the task to end over there", done.exists)
    proxy.stop()
    proxy.start()
    assert up.api(f"/v1/runs/{run}")["state"] == "running"
    machine.plug()
    assert up.ended(run, within_s=60)["outcome"] == "succeeded"
    assert up.qd("logs", run, "--raw").stdout == b"before\nafter\n"
