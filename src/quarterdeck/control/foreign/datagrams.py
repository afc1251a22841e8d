"""Reads datagrams: rtail, and syslog over UDP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from quarterdeck.control.foreign.book import Source
from quarterdeck.control.foreign.hub import Hub
from quarterdeck.core.foreign import Message

AT_ONCE = 64
"""So many datagrams are read before others have their turn."""
MOST_BYTES = 1 << 16


class Datagrams:
    """One socket; `read` reads one datagram."""

    def __init__(
        self, protocol: str, opened: socket.socket, hub: Hub, read: Callable[[bytes], Message]
    ) -> None:
        self._protocol = protocol
        self._socket = opened
        self._hub = hub
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(opened.fileno(), self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data, address = self._socket.recvfrom(MOST_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what an earlier answer of ours met; there are none
                continue
            source = Source(self._protocol, peer_of(address), connection=False)
            if self._hub.admits(source, address[1], len(data)):
                self._hub.take(source, [self._read(data)])


def peer_of(address: object) -> str:
    """The host of an address, as people write it."""
    host = address[0] if isinstance(address, tuple) and address else "unknown"
    return str(host).removeprefix("::ffff:").partition("%")[0] or "unknown"
