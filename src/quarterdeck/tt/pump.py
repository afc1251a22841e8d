"""From a pipe or terminal to where tt writes, exactly, and without ever waiting in a write."""

from __future__ import annotations

import errno
import os
import select
import stat

_PIECE = 256 << 10
_SURE = 4096  # what is writable takes so much without waiting (PIPE_BUF)
_SET_PIPE_SIZE = 1031
_NARROW = 64 << 10
_OWED = 1 << 20  # no pipe and no terminal of ours holds more


class Sink:
    """Where something is written to; `hand` is what it has not taken yet.

    `ready`: it never makes us wait. What we were given is shared with others and must not be
    changed; a pipe or terminal is therefore opened once more, or written to in small pieces.
    """

    def __init__(self, fd: int, *, ready: bool = False) -> None:
        self.fd = fd
        self.hand = memoryview(b"")
        self.gone = False
        self.fault = ""
        self._free = ready
        if not ready:
            self._reopen()

    def _reopen(self) -> None:
        mode = os.fstat(self.fd).st_mode
        terminal = os.isatty(self.fd)
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or terminal):
            self._free = True  # a file waits for its disk, and /dev/null for nothing
            return
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            self.fd = os.open(f"/proc/self/fd/{self.fd}", flags)
            self._free = True
        except OSError:
            pass

    def put(self, data: bytes) -> None:
        """Write it, or keep the rest in hand; only with an empty hand."""
        if not self.gone:
            self.hand = memoryview(data)
            if self._free or _writable(self.fd):
                self.flush()

    def flush(self) -> None:
        """Write what is in hand as far as it is taken now."""
        while self.hand:
            try:
                count = os.write(self.fd, self.hand if self._free else self.hand[:_SURE])
            except BlockingIOError:
                return
            except OSError as error:
                self.gone = True
                self.fault = "" if error.errno in (errno.EPIPE, errno.EIO) else str(error.strerror)
                self.hand = memoryview(b"")
                return
            self.hand = self.hand[count:]
            if not self._free:
                return

    def wait(self) -> None:
        """Until nothing is in hand."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while self.hand:
            poll.poll()
            self.flush()


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def widen(pipe: int) -> None:
    """Let a pipe hold more, where the kernel lets us: large output then takes fewer turns."""
    import fcntl

    try:
        fcntl.fcntl(pipe, _SET_PIPE_SIZE, _OWED)
    except (OSError, ValueError):
        pass  # over the user's quota, no such thing here, or a terminal


class Source:
    """What is read from `fd`, goes to `sink` and is told as `stream`."""

    def __init__(self, fd: int, sink: Sink, stream: int) -> None:
        self.fd = fd
        self.sink = sink
        self.stream = stream
        self.open = True
        self._wide = False
        self._owed = -1  # how much is read at most from here on; negative: all

    def read(self) -> bytes:
        """What is there now; empty when nothing is, or when `open` has become False."""
        try:
            data = os.read(self.fd, _PIECE)
        except BlockingIOError:
            self._owed = min(self._owed, 0)
            return b""
        except OSError:
            data = b""  # nobody has the terminal open any more
        if len(data) >= _NARROW and not self._wide:
            self._wide = True
            widen(self.fd)
        if not data:
            self.open = False
        elif self._owed > 0:
            self._owed = max(0, self._owed - len(data))
        return data

    def owe(self) -> None:
        """The command has ended: only what it wrote is still to be read."""
        self._owed = _OWED

    @property
    def done(self) -> bool:
        """Whether all that was to be read was read and written."""
        return not self.sink.hand and (not self.open or self._owed == 0)

    def close(self) -> None:
        """Read no more: who writes is told so by the kernel."""
        if self.open:
            self.open = False
            if self.fd > 2:
                os.close(self.fd)
