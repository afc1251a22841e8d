"""Reads datagrams: rtail, and syslog over UDP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from quarterdeck.control.foreign.hub import Hub
from quarterdeck.core.foreign import Message

AT_ONCE = 256
"""So many datagrams are read before others have their turn."""
FLOOD_WAIT_S = 0.02
MOST_BYTES = 1 << 16


class Datagrams:
    """One socket; `read` reads one datagram. While most of what comes is of no use the kernel
    drops it: that costs us nothing."""

    def __init__(
        self, protocol: str, opened: socket.socket, hub: Hub, read: Callable[[bytes], Message]
    ) -> None:
        self._protocol = protocol
        self._socket = opened
        self._hub = hub
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        counts = self._hub.counts_of(self._protocol)
        before = counts.limited + counts.bad
        for _ in range(AT_ONCE):
            try:
                data, address = self._socket.recvfrom(MOST_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what an earlier answer of ours met; there are none
                continue
            source = self._hub.datagram(self._protocol, peer_of(address), address[1], len(data))
            if source is not None:
                self._hub.take(source, [self._read(data)])
        if counts.limited + counts.bad - before > AT_ONCE // 2:
            self._loop.remove_reader(self._socket.fileno())
            self._later = self._loop.call_later(FLOOD_WAIT_S, self._listen)


def peer_of(address: object) -> str:
    """The host of an address, as people write it."""
    host = address[0] if isinstance(address, tuple) and address else "unknown"
    return str(host).removeprefix("::ffff:").partition("%")[0] or "unknown"
