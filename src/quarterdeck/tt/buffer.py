"""What the server has not taken yet: in memory, then all of it in a file, then only counted.

The frames form one queue. In memory it is a deque; when that is full, or when tt ends before the
server has taken everything, the whole queue moves to the spool file and goes on there until the
file is drained. So either place holds all of it, in order, and a file that is found later needs
nothing else. Offsets are given here: they count the bytes of a stream that were kept.
"""

from __future__ import annotations

import struct
import threading
from collections import deque

from quarterdeck.tt.handover import DROPPED, END, OUTPUT, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from quarterdeck.tt.spool import Spool

HEAD = struct.Struct("!BBQQI")
_COUNT = struct.Struct("!Q")
_OVERHEAD = 64  # of a small frame in memory
_MOST_FRAME = 1 << 20


class Buffer:
    """A queue of frames between one thread that puts and one that takes."""

    def __init__(self, spool: Spool, *, memory: int, disk: int) -> None:
        self._spool = spool
        self._memory = memory
        self._disk = disk
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._held = 0
        self._in_file = spool.size > 0
        self._ended = self._in_file
        self.end: bytes = b""
        self.kept = [0, 0]
        self._owed = [0, 0]
        self._full = False

    def put(self, stream: int, time_us: int, data: bytes) -> None:
        """Keep bytes of a stream, or count them."""
        with self._changed:
            if self._room(HEAD.size + len(data)):
                self._tell_dropped(time_us)
                if self._keep(frame(OUTPUT, stream, self.kept[stream], time_us, data)):
                    self.kept[stream] += len(data)
                    self._changed.notify_all()
                    return
            self._owed[stream] += len(data)

    def drop(self, stream: int, count: int) -> None:
        """Note bytes that were dropped before they came here."""
        with self._changed:
            self._owed[stream] += count

    def finish(self, end: bytes, time_us: int) -> None:
        """Nothing more comes. `end` is empty when the front was killed."""
        with self._changed:
            self._tell_dropped(time_us)
            if end:
                end += b" %d %d" % tuple(self.kept)
                self._keep(frame(END, 0, 0, time_us, end))
            self.end = end
            self._ended = True
            self._changed.notify_all()

    def peek(self, limit: int, wait_s: float) -> bytes:
        """The first frames of the queue, whole ones; waits for the first. END is not among them."""
        with self._changed:
            if not self._ended and not self._some():
                self._changed.wait(wait_s)
            return b"".join(self._first(limit))

    def pop(self, count: int) -> None:
        """The server has taken so many bytes of frames."""
        with self._changed:
            if self._in_file:
                self._spool.head += count
                if not self._ended and self._spool.head >= self._spool.size:
                    self._spool.empty()
                    self._in_file = False
                return
            while count > 0:
                taken = self._queue.popleft()
                count -= len(taken)
                self._held -= len(taken) + _OVERHEAD

    def skip(self, acked: dict[int, int]) -> None:
        """Forget what the server has already, as far as the queue begins with it."""
        while True:
            first = self.peek(_MOST_FRAME + HEAD.size, 0.0)
            done = 0
            for kind, stream, offset, start, stop in _frames(first):
                if kind == OUTPUT and offset + (stop - start) > acked.get(stream, 0):
                    break
                if kind == DROPPED and offset >= acked.get(stream, 0):
                    break
                done = stop
            if not done:
                return
            self.pop(done)

    def drained(self) -> bool:
        """Whether everything was put, and all of it taken."""
        with self._changed:
            return self._ended and not self._first(1)

    def to_file(self) -> bool:
        """Move the queue into the file, where it survives us; False when there is no file."""
        with self._changed:
            return self._in_file or self._move()

    def _some(self) -> bool:
        return self._in_file or bool(self._queue)

    def _first(self, limit: int) -> list[bytes]:
        if self._in_file:
            first = self._first_in_file(limit)
            return [first] if first else []
        found: list[bytes] = []
        for one in self._queue:
            if one[0] == END or (found and limit < len(one)):
                break
            found.append(one)
            limit -= len(one)
        return found

    def _first_in_file(self, limit: int) -> bytes:
        data = self._spool.read(max(limit, _MOST_FRAME + HEAD.size))
        stop = 0
        for kind, _, _, start, after in _frames(data):
            if kind == END:
                self.end = data[start:after]
                break
            stop = after
        return data[:stop]

    def _room(self, size: int) -> bool:
        """After a drop there is room only once much was delivered: one hole, not many."""
        if self._full and not self._in_file and self._held <= self._memory // 2:
            self._full = False
        if not self._in_file and not self._full and self._held + size > self._memory:
            self._move()
        if self._in_file:
            self._full = self._full or self._spool.size + size > self._disk
        else:
            self._full = self._full or self._held + size > self._memory
        return not self._full

    def _move(self) -> bool:
        if self._spool.append(b"".join(self._queue)):
            self._in_file = True
            self._queue.clear()
            self._held = 0
        return self._in_file

    def _keep(self, data: bytes) -> bool:
        if self._in_file:
            return self._spool.append(data)
        self._queue.append(data)
        self._held += len(data) + _OVERHEAD
        return True

    def _tell_dropped(self, time_us: int) -> None:
        for stream, count in enumerate(self._owed):
            said = frame(DROPPED, stream, self.kept[stream], time_us, _COUNT.pack(count))
            if count and self._keep(said):
                self._owed[stream] = 0


def _frames(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(kind, stream, offset, start and stop of the bytes) of each whole frame."""
    at = 0
    while at + HEAD.size <= len(data):
        kind, stream, offset, _, length = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        at = start + length
        if at > len(data):
            return
        yield kind, stream, offset, start, at
