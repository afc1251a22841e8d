"""Another machine for tests: a network namespace behind a virtual cable that can be pulled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.up import QD


class Machine:
    """`host` is this machine's address as the other one sees it; `beyond` is one of this machine
    that the other has no way to."""

    def __init__(self) -> None:
        self.name = f"qdtest{os.getpid()}"
        self._cable = f"qdt{os.getpid() % 100000}"
        third = os.getpid() % 250
        self.host = f"10.213.{third}.1"
        self._address = f"10.213.{third}.2"
        self.beyond = f"10.214.{third}.1"

    def build(self) -> str:
        """Empty, or why this can't be done here."""
        steps = (
            f"netns add {self.name}",
            f"link add {self._cable} type veth peer name eth0 netns {self.name}",
            f"addr add {self.host}/24 dev {self._cable}",
            f"link set {self._cable} up",
            f"-n {self.name} addr add {self._address}/24 dev eth0",
            f"-n {self.name} link set eth0 up",
            f"-n {self.name} link set lo up",
            f"addr add {self.beyond}/32 dev lo",
        )
        for step in steps:
            try:
                done = subprocess.run(["ip", *step.split()], capture_output=True, check=False)
            except FileNotFoundError:
                return "no `ip` command (package iproute2)"
            if done.returncode:
                return f"`ip {step}` failed: {done.stderr.decode().strip()}"
        return ""

    def tear_down(self) -> None:
        for step in (
            f"link del {self._cable}",
            f"netns del {self.name}",
            f"addr del {self.beyond}/32 dev lo",
        ):
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", *step.split()], capture_output=True, check=False)

    def pull(self) -> None:
        subprocess.run(["ip", "link", "set", self._cable, "down"], check=True)

    def plug(self) -> None:
        subprocess.run(["ip", "link", "set", self._cable, "up"], check=True)

    def popen(
        self, *words: str, log: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """`qd` over there, in the background."""
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, QD, *words],
                env={
                    **{key: value for key, value in os.environ.items() if key[:3] != "QD_"},
                    **(env or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


@contextlib.contextmanager
def another_machine() -> Iterator[tuple[Machine, str]]:
    """A machine, and why there is none."""
    machine = Machine()
    missing = machine.build()
    try:
        yield machine, missing
    finally:
        machine.tear_down()
