"""Debian packages that verbs of ./dev need: found, installed where that is allowed, else named.

Standard library only; part of ./dev.
"""

from __future__ import annotations

import os
import shutil
import sys
from glob import glob
from pathlib import Path

from locked_venv import Argv, Stop, capture, say, step

# verb: ((program to look for, package that has it), ...); a pattern where it is not on PATH
DEBIAN = {
    "bare": (("busybox", "busybox-static"), ("unshare", "util-linux")),
    "check": (("git", "git"),),
    "test": (("git", "git"),),
    "bench": (("ssh", "openssh-client"), ("/usr/sbin/sshd", "openssh-server")),
}
# the tests that need these are skipped where they can't be installed
POSTGRES = ("/usr/lib/postgresql/*/bin/postgres", "postgresql")
OPTIONAL = {
    "test": (
        POSTGRES,
        ("nginx", "nginx"),
        ("chromium", "chromium"),
        ("/usr/lib/*/libatomic.so.1", "libatomic1"),  # Playwright's Node
        ("/usr/sbin/rsyslogd", "rsyslog"),
        ("/usr/sbin/sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("curl", "curl"),
        ("ip", "iproute2"),
        ("tmux", "tmux"),
        ("/usr/bin/vim*", "vim-tiny"),
    )
}
# services that Debian would start with a package; nobody asked for that
SERVICES = {"openssh-server": ("ssh", "ssh.socket"), "nginx": ("nginx",), "rsyslog": ("rsyslog",)}


def ensure_debian(for_verb: str) -> None:
    """Installs the Debian packages of a verb that are missing, or says which they are."""
    install_debian(for_verb, missing(DEBIAN.get(for_verb, ())))
    wished = missing(OPTIONAL.get(for_verb, ()))
    try:
        running = clusters()
        install_debian(for_verb, wished)
        for version, cluster in sorted(clusters() - running):
            # Debian's package starts a server of its own; the tests start theirs
            words = [*as_root(), "pg_ctlcluster", version, cluster, "stop"]
            step(f"Stopping PostgreSQL {version}/{cluster}", words, "Stop it by hand.")
    except Stop as stop:
        say(f"{stop}\ndev: tests that need {', '.join(wished)} are skipped")


def missing(wanted: tuple[tuple[str, str], ...]) -> list[str]:
    """The packages whose program is not there."""
    return [
        package
        for program, package in wanted
        if not (glob(program) if program.startswith("/") else shutil.which(program))
    ]


def clusters() -> set[tuple[str, str]]:
    """The PostgreSQL servers of Debian's making that run now: (version, name)."""
    if not shutil.which("pg_lsclusters"):
        return set()
    listed = [line.split() for line in capture(["pg_lsclusters", "-h"]).stdout.splitlines()]
    return {
        (words[0], words[1]) for words in listed if len(words) > 3 and words[3].startswith("online")
    }


def as_root() -> Argv:
    """What to put before a command that only root may run."""
    if os.geteuid() == 0:
        return []
    return ["sudo"] if sys.stdin.isatty() else ["sudo", "--non-interactive"]


def install_debian(for_verb: str, packages: list[str]) -> None:
    """Raises Stop with one sentence that names them when that can't be done."""
    if not packages:
        return
    sentence = f"./dev {for_verb} needs the Debian packages: apt install {' '.join(packages)}"
    if not shutil.which("apt-get") or not (os.geteuid() == 0 or shutil.which("sudo")):
        raise Stop(sentence)
    say(f"installing {' '.join(packages)}")
    apt: Argv = [*as_root(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
    step("apt-get update", [*apt, "update"], sentence)
    step(
        "apt-get install",
        [*apt, "install", "--yes", "--no-install-recommends", *packages],
        sentence,
    )
    for package in packages:
        if package in SERVICES and Path("/run/systemd/system").exists():
            disable: Argv = [*as_root(), "systemctl", "disable", "--now", *SERVICES[package]]
            step(f"Stopping the service of {package}", disable, "Stop it by hand.")
