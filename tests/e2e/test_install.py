"""The line that `qd token create` prints, run as it is in a root of its own, ends in a node."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import quarterdeck
from tests.e2e.up import Up, running, wait_for

INSTALL_S = 120.0


def wheel(directory: Path) -> Path:
    """A package that leads to this source tree and to what is installed beside it: what PyPI gives
    to others comes from this machine."""
    name = f"quarterdeck-{version('quarterdeck')}"
    paths = [Path(quarterdeck.__file__).parents[1], Path(sysconfig.get_paths()["purelib"])]
    info = f"{name}.dist-info"
    files = {
        "quarterdeck_here.pth": "".join(f"{path}\n" for path in paths),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: quarterdeck\nVersion: "
        f"{version('quarterdeck')}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nqd = quarterdeck.cli.main:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = directory / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        for file, text in files.items():
            made.writestr(file, text)
    return path


def install(up: Up, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Make a join token, and run its line with `/` moved to `root`."""
    made = up.json("token", "create", "--kind", "join", *words)
    line = made["install"].replace("/opt/quarterdeck", f"{root}/opt/quarterdeck")
    line = line.replace("service install", f"service install --name new --root {root}")
    line = line.replace("$(command -v sudo) ", "")
    assert made["token"] in line
    return subprocess.run(
        ["sh", "-ec", line],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_S,
    )


@contextlib.contextmanager
def agent(root: Path) -> Iterator[None]:
    """What the unit starts."""
    unit = (root / "etc/systemd/system/quarterdeck-agent.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    process = subprocess.Popen(
        start.removeprefix("ExecStart=").split(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_the_printed_line_ends_in_an_enrolled_node_and_leaves_no_token(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with running(tmp_path / "up", nodes=0, env={"QD_PACKAGE": str(wheel(tmp_path))}) as up:
        done = install(up, root, "--approve", "manual", "--uses", "1")
        assert done.returncode == 0, done
        assert "qd node approve" in done.stderr
        (node,) = up.json("nodes")["items"]
        assert (node["node"], node["state"]) == ("new", "waiting")
        with agent(root):
            up.json("node", "approve", "new")
            wait_for("the node", lambda: up.json("nodes", "-t", "ready")["items"])
            assert up.qd("run", "-t", "new", "--", "echo", "hi").stdout == b"hi\n"
        kept = [path for path in root.rglob("*") if path.is_file() and "/opt/" not in str(path)]
        assert {"agent.toml", "identity.json"} <= {path.name for path in kept}
        assert not [path for path in kept if b"qd_join_" in path.read_bytes()]
        assert (root / "etc/quarterdeck/agent.toml").stat().st_mode & 0o077 == 0
        words = ["service", "install", "--join", up.ready["url"], "--root", str(root)]
        again = up.qd(*words, "--name", "new", "--token-file", "-", stdin=b"used up")
        assert again.returncode == 0 and b"enrolled as new" in again.stderr, again
        assert len(up.json("nodes")["items"]) == 1
    shutil.rmtree(root)
