"""The front: copies what the command writes, tells the sender, passes signals on, leaves with its
code.

The loop waits for: the command's pipes or terminal, room in what tt writes to, our own standard
input when the command is on a terminal (or when it is what is traced), signals, the leader of the
terminal, words of the sender, and room in the pipe to it. Its only deadlines are for a sender that
takes nothing, and for the server's last word at the end.
"""

from __future__ import annotations

import os
import select
import time

from quarterdeck.tt import child, signals
from quarterdeck.tt.handover import Handover
from quarterdeck.tt.pump import Sink, Source
from quarterdeck.tt.speech import Speech

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from quarterdeck.tt.terminal import Leader, Outer
    from quarterdeck.tt.words import Wanted
else:
    import _signal as signal

_BEHIND_S = 0.5  # how often a front in the background looks whether it was brought forward
_INPUT_ENDS = b"\x04"


def trace(wanted: Wanted) -> int:
    """Run and trace it; the exit code."""
    started_us = time.time_ns() // 1000
    began = time.monotonic()
    signals.hold()
    one: child.Child | None = None
    outer: Outer | None = None
    leader: Leader | None = None
    pty = wanted.pty
    if pty is None:
        pty = os.isatty(0) and os.isatty(1)
    if wanted.copy:
        pty = False
    elif pty:
        from quarterdeck.tt import terminal

        outer = terminal.Outer()
        one, leader = terminal.start(wanted.command, outer, die_with=wanted.die_with)
    else:
        one = child.start(wanted.command)
    handover = Handover.start(wanted, one, tty=bool(pty), started_us=started_us, began=began)
    front = Front(one, outer, leader, handover)
    try:
        return front.run()
    finally:
        if outer is not None:
            outer.give_back()


class Front:
    """One command, or standard input, from its start to its end."""

    def __init__(
        self,
        one: child.Child | None,
        outer: Outer | None,
        leader: Leader | None,
        handover: Handover,
    ) -> None:
        self._child = one
        self._outer = outer
        self._leader = leader
        self._handover = handover
        self._status: int | None = None
        self._stopped_by = 0  # the signal that ended our copying of standard input
        self._speech = Speech()
        self._ears = signals.Ears(one.pid if one else 0, grouped=one is None or one.grouped)
        self._keys: Source | None = None
        if one is None:
            self._sources = [Source(0, Sink(1), 0)]
        else:
            pairs = ((one.stdout, 1, 0), (one.stderr, 2, 1))
            self._sources = [Source(fd, Sink(to), number) for fd, to, number in pairs if fd >= 0]
        if outer is not None and one is not None:
            self._keys = Source(0, Sink(one.stdout, ready=True), -1)
            outer.take()
            self._speech.raw = outer.raw

    def run(self) -> int:
        """Until the command has ended and all it wrote is passed on; its code."""
        while not self._over():
            self._turn()
        self._give_terminal_back()
        code, number = self._result()
        self._handover.end(code, number, self._speech.say)
        while self._handover.waiting():
            if self._last_turn():
                break
        self._leave_the_rest()
        return code

    def _over(self) -> bool:
        if self._child is not None and self._status is None:
            return False
        return self._stopped_by != 0 or all(source.done for source in self._sources)

    def _turn(self) -> None:
        poll = select.poll()
        readable: dict[int, Source] = {}
        writable: dict[int, Source] = {}
        for source in self._flows():
            if source.sink.hand:
                writable[source.sink.fd] = source
            elif source.open and not self._handover.full():
                readable[source.fd] = source
        for fd in (self._ears.fd, *self._others()):
            poll.register(fd, select.POLLIN)
        for fd in set(readable) | set(writable):
            wants = select.POLLIN * (fd in readable) | select.POLLOUT * (fd in writable)
            poll.register(fd, wants)
        if self._handover.pending():
            poll.register(self._handover.fd, select.POLLOUT)
        pause_s = self._pause_s()
        if self._status is not None:
            for source in self._sources:
                if source.open and not source.done and not source.sink.hand:
                    self._read(source)  # what there is; a pipe that has nothing is done
        for fd, event in poll.poll(None if pause_s is None else pause_s * 1000):
            if fd in writable and event & ~select.POLLIN:
                writable[fd].sink.flush()
            if fd in readable and event & ~select.POLLOUT and not readable[fd].sink.hand:
                self._read(readable[fd])
            self._attend(fd)
        self._handover.flush()
        self._settle()

    def _flows(self) -> list[Source]:
        if self._keys is None or self._outer is None:
            return self._sources
        if self._status is not None:
            return self._sources
        typed = self._outer.raw or self._outer.modes is None
        return [*self._sources, self._keys] if typed or self._keys.sink.hand else self._sources

    def _others(self) -> list[int]:
        others = [self._handover.words] if self._handover.words >= 0 else []
        if self._leader is not None and self._status is None:
            others.append(self._leader.events)
        return others

    def _pause_s(self) -> float | None:
        if self._child is not None and self._status is not None:
            return 0.0 if not any(source.sink.hand for source in self._sources) else None
        behind = self._outer is not None and self._outer.modes is not None and not self._outer.raw
        return _BEHIND_S if behind or self._handover.pending() else None

    def _read(self, source: Source) -> None:
        data = source.read()
        if source is self._keys:
            self._type(source, data)
            return
        if data:
            source.sink.put(data)
            self._handover.tell(source.stream, data)
            if self._outer is not None:
                self._speech.watch(data)

    def _type(self, keys: Source, data: bytes) -> None:
        if data:
            keys.sink.put(data)
        elif not keys.open and self._outer is not None and self._outer.modes is None:
            keys.sink.put(_INPUT_ENDS)  # what was piped in has ended: say so as a terminal does

    def _settle(self) -> None:
        """What follows from what was read: who reads no more is not written to."""
        for source in self._flows():
            if source.sink.gone and source.open and source is not self._keys:
                source.close()
                if self._child is None:
                    self._stopped_by = signal.SIGPIPE
                if source.sink.fault:
                    self._speech.say(f"tt: output could not be written: {source.sink.fault}.")
        if self._outer is not None and not self._outer.raw:
            self._outer.take()
            self._speech.raw = self._outer.raw

    def _attend(self, fd: int) -> None:
        if fd == self._ears.fd:
            for number in self._ears.heard():
                self._signalled(number)
        elif fd == self._handover.words:
            for sentence in self._handover.heard():
                self._speech.say(sentence)
        elif self._leader is not None and fd == self._leader.events:
            self._lead()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD and self._leader is None:
            self._reap()
        elif number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGTSTP and self._leader is None:
            self._ears.suspend()
        elif number in signals.PASSED_ON and self._child is None:
            self._stopped_by = number

    def _reap(self) -> None:
        if self._child is None or self._status is not None:
            return
        pid, status = os.waitpid(self._child.pid, os.WNOHANG)
        if pid:
            self._ended(status)

    def _ended(self, status: int) -> None:
        self._status = status
        self._ears.deaf()
        for source in self._sources:
            source.owe()

    def _lead(self) -> None:
        """What the leader of the terminal tells."""
        from quarterdeck.tt import terminal

        if self._leader is None or self._outer is None:
            return
        event = self._leader.event()
        if event is None:
            self._ended(signal.SIGKILL)  # the leader was killed, and its terminal has hung up
        elif event[0] == terminal.ENDED:
            self._ended(event[1])
        elif event[0] == terminal.STOPPED:
            self._outer.give_back()
            self._ears.suspend()
            self._outer.take()
            self._resize()
            self._leader.tell(terminal.CONTINUE)

    def _resize(self) -> None:
        if self._outer is not None and self._child is not None:
            from quarterdeck.tt import terminal

            size = terminal.size_of(0) or terminal.size_of(1)
            if size:
                terminal.resize(self._child.stdout, size)

    def _result(self) -> tuple[int, int]:
        """(exit code, the signal that ended it or 0)."""
        if self._status is None:
            number = self._stopped_by
        else:
            number = os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0
        if number:
            return 128 + number, number
        return (0 if self._status is None else os.WEXITSTATUS(self._status)), 0

    def _give_terminal_back(self) -> None:
        if self._outer is not None:
            self._outer.give_back()
        if self._leader is not None:
            from quarterdeck.tt import terminal

            self._leader.tell(terminal.LEAVE)
        self._speech.raw = False
        self._speech.out()

    def _last_turn(self) -> bool:
        """Wait for the sender's last words; True when somebody wants us to leave."""
        poll = select.poll()
        for fd in (self._ears.fd, *([self._handover.words] if self._handover.words >= 0 else [])):
            poll.register(fd, select.POLLIN)
        if self._handover.pending():
            poll.register(self._handover.fd, select.POLLOUT)
        leave = False
        for fd, _ in poll.poll(self._handover.patience_s() * 1000):
            if fd == self._ears.fd:
                leave = any(number in signals.PASSED_ON for number in self._ears.heard())
            elif fd == self._handover.words:
                for sentence in self._handover.heard():
                    self._speech.say(sentence)
        self._handover.flush()
        return leave

    def _leave_the_rest(self) -> None:
        """What the command left running may go on writing: somebody has to go on copying."""
        rest = [source for source in self._sources if source.open and source.fd != 0]
        if not rest or self._child is None or os.fork():
            return
        signals.release()
        while rest:
            poll = select.poll()
            for source in rest:
                poll.register(source.fd, select.POLLIN)
            for fd, _ in poll.poll():
                source = next(one for one in rest if one.fd == fd)
                data = source.read()
                if data:
                    source.sink.put(data)
                    source.sink.wait()
                if source.sink.gone:
                    source.close()
            rest = [source for source in rest if source.open]
        os._exit(0)
