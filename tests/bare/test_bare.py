"""A machine with neither Python nor a C library fetches its programs from the server and is a node.

The machine is a root with nothing but a static busybox. `./dev bare` builds dist/ before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from release import build
from tests.e2e.up import Up, running, wait_for

COMMAND_S = 60.0
ARCH = build.ARCH
AGENT = f"quarterdeck-agent-linux-{ARCH}.tar.gz"
INSIDE = (
    'root=$1; shift; mount --bind "$root" "$root" && mount -t proc proc "$root/proc" && '
    'mount --rbind /dev "$root/dev" && exec chroot "$root" /bin/env -i PATH=/bin HOME=/root "$@"'
)


def reason_to_skip() -> str:
    """What is missing here, if anything."""
    if os.geteuid() != 0:
        return "only root can enter a root of its own"
    if not shutil.which("busybox"):
        return "there is no busybox: apt install busybox-static"
    probe = ["unshare", "--mount", "mount", "-t", "proc", "proc", "/proc"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "nothing can be mounted here"
    if not build.current(build.digest()):
        return "dist/ was not built from these sources: ./dev build"
    return ""


MISSING = reason_to_skip()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


class Machine:
    """The root, and a way to run something in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "dev", "etc", "proc", "root", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
        self.run("/bin/busybox", "--install", "-s", "/bin", ready=False)

    def words(self, *words: str, ready: bool = True) -> list[str]:
        if not ready:
            return ["chroot", str(self.root), *words]
        return ["unshare", "--mount", "sh", "-c", INSIDE, "sh", str(self.root), *words]

    def run(self, *words: str, ready: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*words, ready=ready),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), nodes=0) as up:
        yield up


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    root = tmp_path_factory.mktemp("machine")
    yield Machine(root)
    shutil.rmtree(root)


def test_the_programs_are_fetched_and_compared_with_what_ships_with_busybox(
    up: Up, machine: Machine
) -> None:
    url = up.ready["url"]
    done = machine.run(
        "sh",
        "-c",
        f"cd /tmp && for f in tt-linux-{ARCH} {AGENT} SHA256SUMS; do "
        f"wget -q {url}/download/$f || exit 9; done; "
        f"grep linux SHA256SUMS | sha256sum -c && mv tt-linux-{ARCH} /bin/tt && chmod +x /bin/tt",
    )
    assert done.returncode == 0, done
    assert done.stdout.count(": OK") == 2
    assert not [name for name in ("lib", "lib64", "usr/lib") if (machine.root / name).exists()]


def test_tt_in_one_file_traces_there(up: Up, machine: Machine) -> None:
    sender = up.json("token", "create", "--kind", "send")
    flags = ["--url", up.ready["url"], "--token", sender["token"], "--id", "bare"]
    script = "echo out; echo error >&2; env; exit 3"
    done = machine.run("tt", "-n", "first", *flags, "sh", "-c", script)
    assert done.returncode == 3, done
    assert done.stdout.startswith("out\n") and "error\n" in done.stderr
    assert "/trace/first#access_token=" in done.stderr
    assert not [word for word in done.stdout.split() if word.startswith(("LD_", "PYTHON", "LC_"))]

    def ended() -> list[Any]:
        items = up.api("/v1/traces", name="first")["items"]
        return [item for item in items if item["state"] == "ended"]

    (trace,) = wait_for("the end of the trace", ended)
    assert (trace["code"], trace["id"]) == (3, "bare")
    assert up.qd("logs", trace["trace"]).stdout.startswith(b"out\n")
    (unpacked,) = (machine.root / "root/.cache/tt").iterdir()
    born = unpacked.stat().st_ctime_ns
    again = machine.run("tt", "-n", "second", *flags, "true")
    assert again.returncode == 0, again
    assert [path.name for path in unpacked.parent.iterdir()] == [unpacked.name]
    assert unpacked.stat().st_ctime_ns == born


def test_the_printed_line_makes_it_a_node_that_runs_a_task(up: Up, machine: Machine) -> None:
    line = up.json("token", "create", "--kind", "join", "--uses", "1")["install"]
    line = line.replace("service install", "service install --name bare")
    done = machine.run("sh", "-c", line)
    assert done.returncode == 0, done
    assert "systemd does not run here" in done.stderr
    qd = "/opt/quarterdeck/bin/qd"
    agent = subprocess.Popen(
        machine.words(qd, "agent", "--config", "/etc/quarterdeck/agent.toml"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("the node", lambda: up.json("nodes", "-t", "ready")["items"])
        ran = up.qd("run", "-t", "bare", "--", "sh", "-c", "echo hi; env; exit 4")
        assert ran.stdout.startswith(b"hi\n") and ran.returncode != 0, ran
        assert b"LD_" not in ran.stdout and b"PYTHON" not in ran.stdout
        (run,) = [item for item in up.json("runs")["items"] if item["origin"] != "trace"]
        (task,) = up.json("show", run["id"])["tasks"]
        assert (task["outcome"], task["exit_code"]) == ("failed", 4)
    finally:
        agent.terminate()
        agent.wait(COMMAND_S)


def test_certificates_are_found_where_other_systems_keep_them(up: Up, machine: Machine) -> None:
    count = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'], end=' ')"
    python = "/opt/quarterdeck/bin/python3"
    before = machine.run(python, "-I", "-c", count)
    (machine.root / "etc/ssl").mkdir()
    shutil.copy(up.data / "keys" / "leaf-ca.pem", machine.root / "etc/ssl/cert.pem")
    after = machine.run(python, "-I", "-c", count)
    assert (before.stdout, after.stdout) == ("0 ", "1 "), (before, after)


def test_what_only_a_server_has_is_told_to_be_missing_in_a_sentence(machine: Machine) -> None:
    done = machine.run("/opt/quarterdeck/bin/qd", "server", "--data", "/tmp/s", "--keys", "/tmp/k")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done
    version = machine.run("/opt/quarterdeck/bin/qd", "--version")
    assert version.stdout.startswith("qd "), version
    assert json.loads(build.STAMP.read_text())["sums"].count("linux") == 2
