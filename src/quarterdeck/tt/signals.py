"""Signals of the front: heard by a thread of its own, passed on to the command at once.

All that matter are blocked in every thread and waited for, because only so the kernel says who sent
one: what the terminal sends goes to its whole foreground group, and a command that shares the group
with us must not get its Ctrl-C twice. The thread passes signals on by itself, so that a front which
waits for a stopped terminal does not keep them; then it tells the loop.
"""

from __future__ import annotations

import _thread
import os

from quarterdeck.tt.tree import below

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, which cost a third of our start

PASSED_ON = frozenset(
    (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
)
_HEARD = PASSED_ON | {signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH, signal.SIGCHLD}
_FROM_KERNEL = 0x80  # si_code of what a terminal sends


def hold() -> None:
    """Keep what comes from now on until `listen`; before anything is started."""
    for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT):
        signal.signal(number, _heard)  # else some kernels throw them away although they are held
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)


def release() -> None:
    """For a process that is not the front any more."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)


def restore() -> None:
    """Before an exec: what Python and we have changed, as the kernel starts programs."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    release()


def send(pid: int, number: int, *, grouped: bool) -> None:
    """Signal the command: its group where it has one of its own, else it and what it started."""
    try:
        if grouped:
            os.killpg(pid, number)
            return
        for one in (*below(pid), pid):
            os.kill(one, number)
    except OSError:
        pass  # it has ended, or became another user's


class Ears:
    """Where signals go. `pid` 0: there is no command, they are only told.

    `fd` becomes readable; `heard` gives the numbers. After `deaf` nothing is passed on.
    """

    def __init__(self, pid: int, *, grouped: bool) -> None:
        self.pid = pid
        self._grouped = grouped
        self.fd, self._told = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._told, False)
        self._front = _thread.get_ident()
        _thread.start_new_thread(self._listen, ())

    def heard(self) -> bytes:
        """The numbers that came since the last call."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def deaf(self) -> None:
        """The command has ended: its number may be another's soon."""
        self.pid = 0

    def suspend(self) -> None:
        """Stop as a terminal's Ctrl-Z stops; returns when continued, or at once where no shell
        would continue us."""
        signal.pthread_kill(self._front, signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})

    def _listen(self) -> None:
        while True:
            number, from_terminal = _next()
            pid = self.pid
            passed_on = number in PASSED_ON or number in (signal.SIGTSTP, signal.SIGCONT)
            if pid and passed_on and (self._grouped or not from_terminal):
                send(pid, number, grouped=self._grouped)
            try:
                os.write(self._told, bytes((number,)))
            except BlockingIOError:
                pass  # thousands are waiting there already


def _next() -> tuple[int, bool]:
    """(number, whether the terminal sent it to all)."""
    if not hasattr(signal, "sigwaitinfo"):
        return int(signal.sigwait(_HEARD)), False
    found = signal.sigwaitinfo(_HEARD)
    return int(found.si_signo), found.si_code == _FROM_KERNEL


def _heard(_number: int, _frame: object) -> None:
    """Never runs while the signal is held."""
