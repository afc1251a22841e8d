"""The file with what could not be delivered yet: private, self-contained, one deliverer at a time.

First line: what this is and of which version; second: everything needed to go on, as JSON (where
the server is, with which token, how the trace begins); then frames. Whoever works on a file holds
its lock; a file that nobody holds was left by a sender that gave up or was killed, and the next tt
delivers it. A frame that was cut by a kill is ignored: the frames before it are whole.
"""

from __future__ import annotations

import fcntl
import os
import time

from quarterdeck.tt.text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAGIC = b"tt-spool 1\n"
_MOST_HEADER = 1 << 20
_KEPT_S = 7 * 86_400
SUFFIX = ".spool"


def folder() -> str:
    """Where the files lie."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "tt")


class Spool:
    """One file; made when there is something to write. `head`: so far it was delivered."""

    def __init__(self, key: str, header: dict[str, Any]) -> None:
        self.header = header
        self.path = os.path.join(folder(), key + SUFFIX)
        self.head = 0
        self.size = 0
        self._fd = -1
        self._first = 0

    def append(self, data: bytes) -> bool:
        """Write at the end; all or nothing. False when the disk does not take it."""
        try:
            if self._fd < 0:
                self._make()
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._first + self.size + written)
        except OSError:
            self._cut()
            return False
        self.size += len(data)
        return True

    def read(self, limit: int) -> bytes:
        """What follows the head."""
        count = min(limit, self.size - self.head)
        return os.pread(self._fd, count, self._first + self.head) if count > 0 else b""

    def empty(self) -> None:
        """All was delivered."""
        self.head = self.size = 0
        self._cut()

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        if self._fd >= 0:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # somebody has tidied up
            os.close(self._fd)
            self._fd = -1

    def release(self) -> None:
        """Leave it to the next tt."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _make(self) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first = _MAGIC + encode(self.header).encode() + b"\n"
        os.pwrite(self._fd, first, 0)
        self._first = len(first)

    def _cut(self) -> None:
        try:
            if self._fd >= 0:
                os.ftruncate(self._fd, self._first + self.size)
        except OSError:
            pass  # what is beyond `size` is written over, or cut off by the next reader

    @staticmethod
    def take(path: str) -> Spool | None:
        """A file that was left behind, locked; None when it is somebody's, or nothing of ours."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(fd)
            data = os.pread(fd, _MOST_HEADER, 0)
            first = data.index(b"\n", len(_MAGIC)) + 1
            header = decode(data[len(_MAGIC) : first])
            if not found.st_nlink or not data.startswith(_MAGIC) or not header:
                raise ValueError(path)
        except (OSError, ValueError):
            os.close(fd)
            return None
        spool = Spool("", header)
        spool.path, spool._fd, spool._first = path, fd, first
        spool.size = found.st_size - first
        return spool


def left_behind() -> list[str]:
    """All files, oldest first; those that nobody could deliver for a week are removed."""
    found = []
    place = folder()
    try:
        names = os.listdir(place)
    except OSError:
        return []
    for name in names:
        path = os.path.join(place, name)
        if name.endswith(SUFFIX):
            try:
                written = os.stat(path).st_mtime
            except OSError:
                continue
            found.append((written, path))
    for _, path in [one for one in found if one[0] < time.time() - _KEPT_S]:
        old = Spool.take(path)
        if old is not None:
            old.remove()
    return [path for _, path in sorted(found)]


def used() -> int:
    """Bytes in all files."""
    total = 0
    for path in left_behind():
        try:
            total += os.stat(path).st_size
        except OSError:
            pass  # just delivered
    return total
