"""The keeper of a lock's lease: a small process beside `qd lock`, in a session of its own.

Theory. A slot may be given to somebody else `GONE_AFTER_S` after the last beat. So whoever beats
must also see to it that the command is gone by then, whatever happens to the wrapper, which shares
the terminal, the signals and the fate of its command. Hence a process that:

- beats every `BEAT_S`, and remembers when the last beat that was written had begun
- ends the command's processes with TERM at `TERM_AFTER_S` from then and with KILL at
  `KILL_AFTER_S`, unless it was told to keep going: then it only warns
- does the same when the server says that the claim is over or has to leave
- does the same when the wrapper dies without a word (kill -9), and gives the slot back then
- goes on beating while the wrapper is stopped (Ctrl-Z): what is stopped still holds its lock

The wrapper talks to it through a pipe: the pid of the command as a line, `done` at the end. The
processes of the command are found by a mark in their environment, as a wrapper that is gone can
name nobody. Time is CLOCK_BOOTTIME: it also passes while the machine sleeps.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from quarterdeck.client.http import Connection, quote
from quarterdeck.core.lock import BEAT_S, KILL_AFTER_S, TERM_AFTER_S
from quarterdeck.errors import NotFound, QuarterdeckError, Unavailable

MARK = "QD_LOCK"
GRACE_S = KILL_AFTER_S - TERM_AFTER_S
ANSWER_S = 4.0
LOOK_S = 0.05
AGAIN_S = 1.0
CLEAN_LOOKS = 3
DEAF = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
DONE = b"done\n"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that holds a slot: its last beat began at `renewed_at` (`now()`)."""

    server: Connection
    name: str
    id: str
    renewed_at: float
    keep_going: bool

    @property
    def path(self) -> str:
        return claim_path(self.name, self.id)


def claim_path(name: str, id: str) -> str:
    return f"/v1/locks/{quote(name)}/claims/{quote(id)}"


def now() -> float:
    """Seconds that pass at the same pace everywhere, also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start(lease: Lease) -> tuple[int, int]:
    """Fork the keeper: (its pid, the end of the pipe that it listens to)."""
    lease.server.close()
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        os.close(theirs)
        _keep(lease, ours)
    os.close(ours)
    return pid, theirs


def _keep(lease: Lease, pipe: int) -> NoReturn:
    """The life of the keeper."""
    code = 1
    try:
        os.setsid()
        for number in DEAF:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGALRM, _too_long)
        silent = os.open(os.devnull, os.O_RDWR)
        os.dup2(silent, 0)
        os.dup2(silent, 1)
        Keeper(lease, pipe).live()
        code = 0
    finally:  # nothing of the wrapper's life goes on here
        os._exit(code)


def _too_long(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError("the server does not answer")


class Keeper:
    """Beats, listens, and ends the command when the lease is over."""

    def __init__(self, lease: Lease, pipe: int) -> None:
        self._lease = lease
        self._server = lease.server.hasty(ANSWER_S)
        self._pipe = pipe
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._renewed_at = lease.renewed_at
        self._word = b""
        self._lost = False
        self._told = ""
        self._warned = False

    def live(self) -> None:
        next_beat = 0.0
        while True:
            if not self._lost and now() >= next_beat:
                next_beat = now() + (BEAT_S if self._beat() else AGAIN_S)
            over_at = self._renewed_at + TERM_AFTER_S
            if not self._lost and not self._warned and now() >= over_at:
                self._too_late()
            until = next_beat if self._warned else min(next_beat, over_at)
            word = self._listen(None if self._lost else until - now())
            if word is not None:
                if word != DONE:
                    self._wrapper_died()
                self._give_back()
                return

    def _beat(self) -> bool:
        began = now()
        left_s = self._renewed_at + TERM_AFTER_S - began
        try:
            answer = self._in_time(left_s, lambda: self._server.post(f"{self._lease.path}/renew"))
        except NotFound:
            self._end("it was taken away")
            return True
        except QuarterdeckError as error:
            if not isinstance(error, Unavailable) and self._told != error.message:
                self._told = error.message  # a token that was revoked, for instance
                _say(f"lock {self._lease.name}: {error.message}")
            return False
        self._renewed_at = began
        if self._warned:
            self._warned = False
            _say(f"lock {self._lease.name}: its lease is renewed again; nobody has had it.")
        if answer["standing"] == "leaving":
            self._end("somebody asked it to leave (qd unlock)")
        return True

    def _in_time(self, seconds: float, call: Callable[[], dict[str, str]]) -> dict[str, str]:
        """The timeouts of a connection count each step of it; this counts them together."""
        signal.setitimer(signal.ITIMER_REAL, max(0.1, min(ANSWER_S, seconds)))
        try:
            return call()
        except TimeoutError as error:
            raise Unavailable("connection_lost", "The server does not answer.") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _listen(self, seconds: float | None) -> bytes | None:
        """The wrapper's last word: `done`, or nothing when it died; None while it lives."""
        if not self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            return None
        piece = os.read(self._pipe, 64)
        self._word += piece
        if not piece or self._word.endswith(DONE):
            return DONE if self._word.endswith(DONE) else b""
        return None

    def _too_late(self) -> None:
        """No beat was written for so long that the slot may soon be given away."""
        why = "its lease can't be renewed: the server does not answer"
        if not self._lease.keep_going:
            self._end(why)
            return
        self._warned = True  # what nobody else has taken may still be renewed
        _say(f"lock {self._lease.name}: {why}; going on (--keep-going), others may get it.")

    def _end(self, why: str) -> None:
        """The lease is over: end the command, unless it is to go on."""
        self._lost = True
        if self._lease.keep_going:
            _say(
                f"lock {self._lease.name}: {why}; the command goes on (--keep-going), but others "
                "may hold the lock now."
            )
            return
        _say(f"lock {self._lease.name}: {why}; stopping the command.")
        self._stop_all()

    def _wrapper_died(self) -> None:
        if not self._lease.keep_going:
            _say(f"lock {self._lease.name}: qd lock was killed; stopping its command.")
            self._stop_all()

    def _stop_all(self) -> None:
        kill_at = min(now() + GRACE_S, max(now(), self._renewed_at + KILL_AFTER_S))
        stop_marked(f"{MARK}={self._lease.id}", kill_at=kill_at)

    def _give_back(self) -> None:
        until = now() + ANSWER_S
        while now() < until:
            try:
                self._in_time(until - now(), lambda: self._server.delete(self._lease.path))
                return
            except Unavailable:
                select.poll().poll(250)
            except QuarterdeckError:
                return
        _say(f"lock {self._lease.name} could not be given back; it is free in 20 s.")


def stop_marked(mark: str, *, kill_at: float) -> None:
    """TERM to every process with the mark, KILL from `kill_at` on, until there is none."""
    wanted = os.fsencode(mark)
    told: set[tuple[int, str]] = set()
    clean = 0
    while clean < CLEAN_LOOKS:
        found = _marked(wanted)
        clean = 0 if found else clean + 1
        killing = now() >= kill_at
        for pid, begun in found:
            if killing:
                _signal(pid, wanted, signal.SIGKILL)
            elif (pid, begun) not in told:
                told.add((pid, begun))
                _signal(pid, wanted, signal.SIGTERM)
                _signal(pid, wanted, signal.SIGCONT)  # what is stopped would not hear it
        select.poll().poll(LOOK_S * 1000)


def _marked(mark: bytes) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _has(entry, mark):
            found.append((int(entry.name), _begun(entry)))
    return found


def _has(entry: Path, mark: bytes) -> bool:
    try:
        return mark in (entry / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or gone
        return False


def _begun(entry: Path) -> str:
    try:
        return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _signal(pid: int, mark: bytes, number: signal.Signals) -> None:
    """Signal a process, not another one that has got its pid meanwhile."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _has(Path("/proc") / str(pid), mark):
            signal.pidfd_send_signal(pidfd, number)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def _say(text: str) -> None:
    try:
        os.write(2, f"qd: {text}\n".encode())
    except OSError:  # nobody reads it any more
        return
