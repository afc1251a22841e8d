"""Hearing that files grow: one inotify descriptor per agent, with a poll as the fallback."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_NONBLOCK = 0o4000
IN_CLOEXEC = 0o2000000
EVENT = struct.Struct("iIII")
OUTPUT = frozenset({b"stdout", b"stderr", b"times"})
POLL_S = 0.25
CALM_S = 5.0


class Follower:
    """Calls back when something in a watched directory changes. Start it inside the event loop."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._callbacks: dict[int, tuple[Callable[[], None], Callable[[], None]]] = {}

    def start(self) -> None:
        init = getattr(self._libc, "inotify_init1", None)
        self._fd = -1 if init is None else init(IN_NONBLOCK | IN_CLOEXEC)
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def stop(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._callbacks.clear()

    def add(
        self,
        directory: Path,
        callback: Callable[[], None],
        output: Callable[[], None] | None = None,
    ) -> DirectoryWatch:
        """A watch that polls when the kernel gives none. `output` is called in place of `callback`
        when nothing but the files of output has changed."""
        if self._fd < 0:
            return DirectoryWatch(self, -1)
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE
        number = int(self._libc.inotify_add_watch(self._fd, os.fsencode(directory), mask))
        if number >= 0:
            self._callbacks[number] = (callback, output or callback)
        return DirectoryWatch(self, number)

    def remove(self, number: int) -> None:
        if self._callbacks.pop(number, None) is not None and self._fd >= 0:
            self._libc.inotify_rm_watch(self._fd, number)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        position = 0
        touched: dict[int, bool] = {}  # whether it is more than output
        while position < len(data):
            number, _mask, _cookie, length = EVENT.unpack_from(data, position)
            position += EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            touched[number] = touched.get(number, False) or name not in OUTPUT
            position += length
        # -1 is the queue overflow: something was missed, so everybody looks
        for number in list(self._callbacks) if -1 in touched else touched:
            if (callbacks := self._callbacks.get(number)) is not None:
                callbacks[not touched.get(number, True)]()


class DirectoryWatch:
    """One watched directory."""

    def __init__(self, follower: Follower, number: int) -> None:
        self._follower = follower
        self._number = number

    @property
    def patience_s(self) -> float:
        return POLL_S if self._number < 0 else CALM_S

    def close(self) -> None:
        self._follower.remove(self._number)
