"""From the output pipes to the files: byte-exact, bounded in memory, patient with a full disk.

What is read is in a file's hand until the disk took it; a stream with bytes in hand is not read,
so its pipe fills and the child blocks. A mark goes to `times` before the bytes it describes go to
their file, so a reader that sees bytes sees when they were read. Any write error counts as "not
now": there is nothing better to do with output than to keep it and try again.
"""

from __future__ import annotations

import errno
import hashlib
import os

from quarterdeck.agent.shim import disk, terminal
from quarterdeck.agent.shim.files import MARK, STREAMS, StreamEnd
from quarterdeck.agent.shim.life import Pipes
from quarterdeck.agent.shim.linux import readable_bytes

_READ_BYTES = 256 << 10  # a turn of the loop costs as much as to hash 26 kB
_MARK_EVERY_S = 0.002


class Sink:
    """One append-only file that never loses the bytes in its hand."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._digest = hashlib.sha256()
        self.hand = memoryview(b"")
        self.size = 0

    def open(self) -> None:
        """Create the file, once; OSError when the disk does not let us (call again later)."""
        if self._fd < 0:
            # An attempt starts once, so whatever is there was never anybody's output.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            self._fd = os.open(self._path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def put(self, data: bytes) -> None:
        """Take bytes in hand; `flush` writes them."""
        self.hand = memoryview(bytes(self.hand) + data) if self.hand else memoryview(data)

    def flush(self) -> bool:
        """Write what is in hand; False when some is left."""
        while self.hand:
            if self._fd < 0:
                return False
            try:
                count = os.write(self._fd, self.hand)
            except OSError:
                return False
            self._digest.update(self.hand[:count])
            self.size += count
            self.hand = self.hand[count:]
        return True

    @property
    def unsynced(self) -> int | None:
        """The descriptor to be fsynced; None for an empty file, whose name is all there is."""
        return self._fd if self.size else None

    def sha256(self) -> str:
        """Digest of the bytes written."""
        return self._digest.hexdigest()


class Stream:
    """One pipe and its file."""

    def __init__(self, number: int, pipe: int | None, path: str, *, terminal: bool) -> None:
        self.number = number
        self.pipe = -1 if pipe is None else pipe
        self.terminal = terminal
        self.sink = Sink(path)
        self.dropped = 0
        self.ended = pipe is None
        self.owed = 0

    def read(self) -> bytes | None:
        """What the pipe has; empty at its end, None when there is nothing now."""
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError as error:
            if error.errno != errno.EIO or not self.terminal:
                raise
            data = b""  # the end of a terminal: nobody has it open any more
        self.owed -= len(data or b"")
        if self.terminal and self.owed > 0 and not terminal.has_output(self.pipe):
            self.owed = 0
        return data

    def owe(self) -> None:
        """What is in the pipe now is owed. A terminal does not say how much it holds, but when a
        read finds nothing it holds nothing."""
        if self.ended:
            return
        if not self.terminal:
            self.owed = readable_bytes(self.pipe)
        elif terminal.has_output(self.pipe):
            self.owed = terminal.HELD_BYTES


class Output:
    """Both streams of an attempt and their common time marks and limit (0 = none).

    Without `stderr`, `stdout` is a terminal.
    """

    def __init__(self, folder: str, stdout: int, stderr: int | None, limit: int) -> None:
        pipes = {"stdout": stdout, "stderr": stderr}
        self._streams = {
            name: Stream(number, pipes[name], os.path.join(folder, name), terminal=stderr is None)
            for name, number in STREAMS.items()
        }
        self._times = Sink(os.path.join(folder, "times"))
        self._limit = limit
        self._kept = 0
        self._marked_stream = 0
        self._marked_at = 0.0

    def open(self) -> None:
        """Create the files, once; OSError: call again later."""
        for sink in (self._times, *(stream.sink for stream in self._streams.values())):
            sink.open()

    def wanted(self) -> list[Stream]:
        """The streams to read when their pipe has something: open, and with an empty hand."""
        return [
            stream for stream in self._streams.values() if not stream.ended and not stream.sink.hand
        ]

    def read(self, stream: Stream, now: float, unix_us: int) -> None:
        """One read of a pipe that has something or has ended; `now` is monotonic."""
        data = stream.read()
        if data is None:
            return
        if not data:
            stream.ended = True
            os.close(stream.pipe)
            return
        room = len(data) if self._limit <= 0 else min(len(data), self._limit - self._kept)
        stream.dropped += len(data) - room
        if room > 0:
            self._kept += room
            self._mark(stream, now, unix_us)
            stream.sink.put(data[:room])
            self.flush()

    def flush(self) -> bool:
        """Write all that is in hand, marks first; False when some is left."""
        if not self._times.flush():
            return False
        # No short cut: one stream that cannot be written must not hold back the other.
        done = True
        for stream in self._streams.values():
            done = stream.sink.flush() and done
        return done

    @property
    def blocked(self) -> bool:
        """Whether bytes are in hand that the disk did not take."""
        return any(stream.sink.hand for stream in self._streams.values())

    def owe(self) -> None:
        """The main process has ended: what is in the pipes now is its output, to be read."""
        for stream in self._streams.values():
            stream.owe()

    def pipes(self) -> Pipes:
        """What is still to come."""
        streams = self._streams.values()
        if self.blocked or any(stream.owed > 0 and not stream.ended for stream in streams):
            return Pipes.OWED
        return Pipes.CLOSED if all(stream.ended for stream in streams) else Pipes.OPEN

    def close(self) -> None:
        """Read no more; a terminal hangs up."""
        for stream in self._streams.values():
            if not stream.ended:
                stream.ended = True
                os.close(stream.pipe)

    def sync(self) -> None:
        """Make the output durable; OSError: call again later."""
        sinks = (self._times, *(stream.sink for stream in self._streams.values()))
        disk.sync([fd for sink in sinks if (fd := sink.unsynced) is not None])

    def ends(self) -> dict[str, StreamEnd]:
        """Size, digest and dropped bytes per stream."""
        return {
            name: StreamEnd(stream.sink.size, stream.sink.sha256(), stream.dropped)
            for name, stream in self._streams.items()
        }

    def _mark(self, stream: Stream, now: float, unix_us: int) -> None:
        same = stream.number == self._marked_stream
        if same and now - self._marked_at < _MARK_EVERY_S:
            return
        self._marked_stream, self._marked_at = stream.number, now
        self._times.put(MARK.pack(stream.number, stream.sink.size, unix_us))
