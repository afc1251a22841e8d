"""The front's side of the sender: what was read goes over as frames; sentences come back.

A frame is what the server's upload takes: kind, stream, offset, time in Unix microseconds and
length, big-endian, then the bytes. The pipe to the sender never makes the front wait long: when
nothing is taken for a second (the sender hangs on a dead disk, or was stopped), what follows is
counted instead of kept.
"""

from __future__ import annotations

import os
import time

from quarterdeck.tt.pump import widen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from quarterdeck.tt.child import Child
    from quarterdeck.tt.words import Wanted

OUTPUT = 1
DROPPED = 2
END = 16  # only between front, sender and spool: the server is told in another way

# what the sender says, one letter a line
CONNECTING = b"S"
CONNECTED = b"C"
AWAY = b"A"
BEGUN = b"B"
DONE = b"D"
SENTENCE = b"L"

_STALLED_S = 1.0
_FULL = 1 << 20
_BEGIN_S = 0.25  # the sender's own start; the machine may be busy
_CONNECT_S = 0.025
_ANSWER_S = 0.25
_END_S = 0.01  # the rest is delivered without us
_ALONE_S = 10.0  # in a container nobody may be left to deliver after us


def frame(kind: int, stream: int, offset: int, time_us: int, data: bytes) -> bytes:
    """One frame as bytes."""
    return b"".join(
        (
            bytes((kind, stream)),
            offset.to_bytes(8, "big"),
            time_us.to_bytes(8, "big"),
            len(data).to_bytes(4, "big"),
            data,
        )
    )


class Handover:
    """The pipes to and from the sender. `fd` is written to, `words` is read; -1: there is none."""

    def __init__(self, fd: int, words: int) -> None:
        self.fd = fd
        self.words = words
        self._offsets = [0, 0]
        self._dropped = [0, 0]
        self._hand: list[memoryview] = []
        self._held = 0
        self._moved_at = 0.0
        self._stalled = False
        self._heard = b""
        self._over = fd < 0
        self._phase = b""
        self._phase_at = 0.0
        self._end_at: float | None = None
        self._wide = False
        alone = 1 in (os.getpid(), os.getppid())
        self._answer_s = _ALONE_S if alone else _ANSWER_S
        self._end_s = _ALONE_S if alone else _END_S

    @staticmethod
    def start(
        wanted: Wanted, one: Child | None, *, tty: bool, started_us: int, began: float
    ) -> Handover:
        """Fork the sender."""
        read_end, fd = os.pipe()
        words, write_end = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            for each in (read_end, fd, words, write_end):
                os.close(each)
            return Handover(-1, -1)
        if pid == 0:
            try:
                from quarterdeck.tt.sender import serve

                serve(wanted, one, tty=tty, started_us=started_us, frames=read_end, words=write_end)
            finally:
                os._exit(0)
        os.close(read_end)
        os.close(write_end)
        os.set_blocking(fd, False)
        os.set_blocking(words, False)
        return Handover(fd, words)

    def tell(self, stream: int, data: bytes) -> None:
        """A copy of what the command wrote."""
        if self.fd < 0:
            return
        if self._stalled:
            self._dropped[stream] += len(data)
            return
        offset = self._offsets[stream]
        self._offsets[stream] += len(data)
        self._put(frame(OUTPUT, stream, offset, _now_us(), data))

    def full(self) -> bool:
        """Whether the command must wait for the sender, which is making progress."""
        return self._held > _FULL and not self._stalled

    def pending(self) -> bool:
        """Whether something waits for room in the pipe."""
        return self._held > 0

    def flush(self) -> None:
        """Write what waits, as far as the pipe takes it."""
        while self._hand and self.fd >= 0:
            try:
                count = os.write(self.fd, self._hand[0])
            except BlockingIOError:
                if not self._wide:
                    self._wide = True
                    widen(self.fd)
                    continue
                if time.monotonic() - self._moved_at > _STALLED_S:
                    self._stalled = True
                return
            except OSError:
                self._gone()
                return
            self._moved_at = time.monotonic()
            self._held -= count
            self._hand[0] = self._hand[0][count:]
            if not self._hand[0]:
                self._hand.pop(0)
        if self._stalled:
            self._stalled = False
            self._tell_dropped()

    def end(self, code: int, number: int, say: Callable[[str], None]) -> None:
        """The command has ended with this code, by this signal (0: by none)."""
        if self.fd < 0:
            return
        self._tell_dropped()
        said = f"{code} {number} {_now_us()}".encode()
        self._put(frame(END, 0, 0, _now_us(), said))
        for sentence in self.heard():
            say(sentence)
        self._end_at = time.monotonic()

    def waiting(self) -> bool:
        """After the end: whether more is to be expected soon enough."""
        if self.fd < 0 or self._over:
            return False
        if self.pending():
            return not self._stalled
        return self._phase != AWAY and self.patience_s() > 0

    def patience_s(self) -> float:
        """How long to wait for the next word."""
        if self.pending():
            return _STALLED_S
        ended = self._end_at or 0.0
        until = ended + _BEGIN_S
        if self._phase == CONNECTING:
            until = self._phase_at + _CONNECT_S
        elif self._phase == CONNECTED:
            until = max(ended, self._phase_at) + self._answer_s
        elif self._phase == BEGUN:
            until = max(ended, self._phase_at) + self._end_s
        return max(0.0, until - time.monotonic())

    def heard(self) -> list[str]:
        """The sentences to be printed that came since the last call."""
        if self.words < 0:
            return []
        try:
            data = os.read(self.words, 65536)
        except BlockingIOError:
            return []
        if not data:
            os.close(self.words)
            self.words = -1
            killed, self._over = not self._over and self._end_at is None, True
            said = "tt: the process that sends was killed: the command goes on, untraced."
            return [said] if killed else []
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [line[1:].decode("utf-8", "replace") for line in lines if self._understood(line)]

    def _understood(self, line: bytes) -> bool:
        """True for a sentence; else how long we wait at the end changes."""
        what = line[:1]
        if what in (CONNECTING, CONNECTED, BEGUN, AWAY):
            self._phase, self._phase_at = what, time.monotonic()
        elif what == DONE:
            self._over = True
        return what == SENTENCE

    def _put(self, data: bytes) -> None:
        if not self._hand:
            self._moved_at = time.monotonic()
        self._hand.append(memoryview(data))
        self._held += len(data)
        self.flush()

    def _tell_dropped(self) -> None:
        for stream, count in enumerate(self._dropped):
            if count:
                self._dropped[stream] = 0
                said = count.to_bytes(8, "big")
                self._put(frame(DROPPED, stream, self._offsets[stream], _now_us(), said))

    def _gone(self) -> None:
        """The sender was killed: the command goes on, untraced."""
        os.close(self.fd)
        self.fd = -1
        self._hand.clear()
        self._held = 0


def _now_us() -> int:
    return time.time_ns() // 1000
