"""A terminal for the command, and the process that leads it.

The leader's session owns the terminal and the command is the group in its foreground, so the
command may be stopped (Ctrl-Z) and its end hangs nothing up before its last output was read. The
leader outlives a front that is killed: it gives the outer terminal back, and takes the command
down when asked to. It hears one byte commands and tells five byte events, see below; the end of the
commands without LEAVE means that the front is dead.
"""

from __future__ import annotations

import fcntl
import os
import select
import termios

from quarterdeck.tt import signals
from quarterdeck.tt.child import Child, become
from quarterdeck.tt.tree import close_all_but

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    import _signal as signal

CONTINUE = b"c"
LEAVE = b"q"
STARTED = b"P"
STOPPED = b"Z"
ENDED = b"E"
_SIZE = b"\0" * 8
_PLAIN = (24, 80)


class Outer:
    """The terminal that tt itself is on, if its standard input is one."""

    def __init__(self) -> None:
        try:
            self.modes: list[Any] | None = termios.tcgetattr(0)
        except termios.error:
            self.modes = None
        self.raw = False

    def take(self) -> None:
        """Hand every key to the command, as soon as we are in the foreground."""
        if self.modes is None or self.raw or not self.in_front():
            return
        modes = list(self.modes)
        modes[0] &= ~(
            termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON
        )
        modes[1] &= ~termios.OPOST
        modes[2] = modes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        modes[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        modes[6] = list(modes[6])
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        _set(0, modes)
        self.raw = True

    def give_back(self) -> None:
        """As it was; may be called at any time."""
        if self.raw and self.modes is not None:
            self.raw = False
            _set(0, self.modes)

    def in_front(self) -> bool:
        """Whether the terminal is ours to read and to set."""
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return False


def open_terminal(outer: Outer) -> tuple[int, int]:
    """A terminal like the outer one: (our end, the command's end)."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    if outer.modes is not None:
        _set(theirs, outer.modes)
    size = size_of(0) or size_of(1) or size_of(2) or bytes((_PLAIN[0], 0, _PLAIN[1], 0)) + _SIZE[4:]
    resize(ours, size)
    return ours, theirs


def size_of(fd: int) -> bytes | None:
    """The size of a terminal as the kernel writes it; None when it is none or does not know."""
    try:
        size = fcntl.ioctl(fd, termios.TIOCGWINSZ, _SIZE)
    except OSError:
        return None
    return size if any(size[:4]) else None


def resize(terminal: int, size: bytes) -> None:
    """Give it a size; the kernel tells whoever is in its foreground."""
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    except OSError:
        pass  # nobody has it open any more


class Leader:
    """Our side of the process that leads the terminal."""

    def __init__(self, control: int, events: int) -> None:
        self.events = events
        self._control = control

    def tell(self, command: bytes) -> None:
        """One command; a leader that was killed hears nothing."""
        try:
            os.write(self._control, command)
        except OSError:
            pass

    def event(self) -> tuple[bytes, int] | None:
        """The next event (what, number); None when the leader is gone."""
        try:
            data = os.read(self.events, 5)
        except OSError:
            return None
        return (data[:1], int.from_bytes(data[1:], "big")) if len(data) == 5 else None


def start(command: list[str], outer: Outer, *, die_with: bool) -> tuple[Child, Leader]:
    """Start it on a terminal; its standard error too, unless ours leads elsewhere."""
    ours, theirs = open_terminal(outer)
    err_read = err_write = -1
    if not os.isatty(2):
        err_read, err_write = os.pipe()
        os.set_blocking(err_read, False)
    control_read, control = os.pipe()
    events, events_write = os.pipe()
    if os.fork() == 0:
        try:
            os.close(control)
            _lead(command, theirs, err_write, control_read, events_write, outer, die_with)
        finally:
            os._exit(1)
    for fd in (theirs, control_read, events_write, err_write):
        if fd >= 0:
            os.close(fd)
    leader = Leader(control, events)
    started = leader.event()
    return Child(started[1] if started else 0, ours, err_read, grouped=True), leader


def _lead(
    command: list[str],
    terminal: int,
    stderr: int,
    control: int,
    events: int,
    outer: Outer,
    die_with: bool,
) -> None:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    signals.release()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a front that dies hangs this session up
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    pid = os.fork()
    if pid == 0:
        try:
            _step_in_front(terminal, stderr)
            become(command)
        finally:
            os._exit(126)
    # standard input stays open: it is the outer terminal, to be given back
    close_all_but({0, control, events, read_end, write_end})
    _tell(events, STARTED, pid)
    left = _attend(pid, control, events, read_end)
    if not left:
        if outer.modes is not None:
            _set(0, outer.modes)
        if die_with:
            signals.send(pid, signal.SIGKILL, grouped=True)
    os._exit(0)


def _step_in_front(terminal: int, stderr: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    os.tcsetpgrp(terminal, os.getpid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})
    for fd in (0, 1, 2):
        os.dup2(terminal if fd < 2 or stderr < 0 else stderr, fd)


def _attend(pid: int, control: int, events: int, woken: int) -> bool:
    """Until the front leaves (True) or dies (False)."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    running = True
    left = False
    while True:
        if running:
            running = _look(pid, events)
        for fd, _ in poll.poll():
            if fd == woken:
                os.read(woken, 4096)
                continue
            said = os.read(control, 1)
            if said == CONTINUE:
                signals.send(pid, signal.SIGCONT, grouped=True)
            left = left or said == LEAVE
            if not said:
                return left


def _look(pid: int, events: int) -> bool:
    """Tell how the command fares, if that changed; False when it has ended."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if not found:
            return True
        if not os.WIFSTOPPED(status):
            _tell(events, ENDED, status)
            return False
        _tell(events, STOPPED, os.WSTOPSIG(status))


def _tell(events: int, what: bytes, number: int) -> None:
    try:
        os.write(events, what + number.to_bytes(4, "big"))
    except OSError:
        pass  # the front is dead; the end of its commands says so too


def _set(fd: int, modes: list[Any]) -> None:
    """From the background too: a front that was just put there must not stop on it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, modes)
    except termios.error:
        pass  # it has hung up
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})
