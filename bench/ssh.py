"""The peer: an sshd of our own on loopback, with and without ControlMaster."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STARTED_WITHIN_S = 10.0
SSHD = "/usr/sbin/sshd"
MISSING = "ssh is not measured: install the Debian packages openssh-server and openssh-client."


def installed() -> bool:
    """Whether client and server of OpenSSH are on this machine."""
    return shutil.which("ssh") is not None and os.access(SSHD, os.X_OK)


class Ssh:
    """How to reach the sshd: argument vectors that end where the command of the host begins."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.user = getpass.getuser()
        self.key = folder / "user_key"
        self._socket = folder / "control"

    @property
    def plain(self) -> list[str]:
        """A connection of its own for each command."""
        return self._words("ControlMaster=no")

    @property
    def control(self) -> list[str]:
        """Over the connection that `connection` keeps open."""
        return self._words("ControlMaster=no", f"ControlPath={self._socket}")

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """The ControlMaster, for the time of a block."""
        words = self._words("ControlMaster=yes", f"ControlPath={self._socket}")
        keeper = subprocess.Popen([*words, "-N"], stdin=subprocess.DEVNULL)
        try:
            until = time.monotonic() + STARTED_WITHIN_S
            while not self._socket.exists():
                if keeper.poll() is not None or time.monotonic() > until:
                    raise SystemExit("The ssh ControlMaster did not start.")
                time.sleep(0.01)
            yield
        finally:
            keeper.terminate()
            keeper.wait()

    def _words(self, *more: str) -> list[str]:
        words = ["ssh", "-F", "none", "-p", str(self.port), "-i", str(self.key)]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={self.folder / 'known_hosts'}",
            "LogLevel=ERROR",
            *more,
        ):
            words += ["-o", option]
        return [*words, f"{self.user}@127.0.0.1"]


@contextlib.contextmanager
def sshd() -> Iterator[Ssh]:
    """An sshd for the present user, with keys of its own, on a free port of loopback."""
    if not installed():
        raise SystemExit(MISSING)
    with tempfile.TemporaryDirectory(prefix="qd-bench-ssh-") as name:
        folder = Path(name)
        port = _free_port()
        ssh = Ssh(folder, port)
        _make_keys(folder, port)
        (folder / "sshd_config").write_text(_config(folder, port))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd, run by root, shuts itself in
        log = (folder / "log").open("wb")
        with log:
            process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            _wait_for(port, process, folder / "log")
            yield ssh
        finally:
            process.terminate()
            process.wait()


def _make_keys(folder: Path, port: int) -> None:
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    host = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")


def _config(folder: Path, port: int) -> str:
    """sshd at its best: no PAM, no limit of sessions, and a home without start files, which
    Debian's bash would read for each command."""
    return "\n".join(
        (
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder / 'host_key'}",
            f"AuthorizedKeysFile {folder / 'authorized_keys'}",
            f"PidFile {folder / 'pid'}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "StrictModes no",
            "UsePAM no",
            f"SetEnv HOME={folder}",
            "MaxSessions 100",
            "MaxStartups 1000",
            "",
        )
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise SystemExit(f"sshd did not start: {log.read_text().strip()}")
