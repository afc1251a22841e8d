"""Sockets to listen on: where the setting says, for port 0 where it was the last time."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from pathlib import Path

from quarterdeck.errors import Conflict
from quarterdeck.service import write_private
from quarterdeck.settings import join_listen

FILE = "ingest.json"
BACKLOG = 128
RECEIVE_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
TRIES = 20

DATAGRAMS = frozenset(("rtail", "syslog"))
CONNECTIONS = frozenset(("logio", "logio4", "syslog"))


class Ports:
    """`ingest.json` in the server's directory says where each protocol is heard: programs read it,
    and a server whose port may be any takes the one it had."""

    def __init__(self, data: Path) -> None:
        self._file = data / FILE
        self._kept: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._file.read_bytes())
            if isinstance(found, dict):
                self._kept = {str(key): str(value) for key, value in found.items()}

    def kept(self, protocol: str, host: str) -> int:
        """The port of the last start at this host, else 0."""
        kept_host, _, port = self._kept.get(protocol, "").rpartition(":")
        same = kept_host.strip("[]") == host and port.isascii() and port.isdecimal()
        return int(port) if same and 0 < int(port) < 65536 else 0

    def write(self, places: dict[str, str]) -> None:
        """Raises OSError."""
        if places or self._file.exists():
            write_private(self._file, json.dumps(places).encode())


def bind(protocol: str, host: str, port: int, kept: int) -> list[socket.socket]:
    """The sockets of a protocol; all of them have one port. Raises Conflict."""
    if port == 0:
        for tried in (kept, *[0] * TRIES) if kept else [0] * TRIES:
            with contextlib.suppress(OSError):
                return _bound(protocol, host, tried)
    try:
        return _bound(protocol, host, port)
    except OSError as error:
        place = join_listen(host, port)
        if error.errno == errno.EADDRINUSE:
            text = f"{place} is in use by another program"
        else:
            text = f"{place} can't be listened on ({error.strerror or error})"
        raise Conflict(
            "port_in_use", f"`ingest`: {text}: give {protocol} another address there."
        ) from error


def _bound(protocol: str, host: str, port: int) -> list[socket.socket]:
    found: list[socket.socket] = []
    try:
        for kind in _kinds(protocol):
            one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
            found.append(one)
            one.setblocking(False)
            if kind is socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                _make_room(one)
            one.bind((host, port))
            port = int(one.getsockname()[1])
            if kind is socket.SOCK_STREAM:
                one.listen(BACKLOG)
    except OSError:
        for one in found:
            one.close()
        raise
    return found


def _make_room(opened: socket.socket) -> None:
    """For bursts of datagrams; only root gets as much as that from the kernel."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


def _kinds(protocol: str) -> list[socket.SocketKind]:
    streams = [socket.SOCK_STREAM] if protocol in CONNECTIONS else []
    return [*streams, socket.SOCK_DGRAM] if protocol in DATAGRAMS else streams
