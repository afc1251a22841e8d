"""Processes by identity: find them through /proc, signal exactly the one that was meant.

Theory. A pid says nothing about who has it next; (pid, start ticks) within one boot does. So every
signal goes: open a pidfd (from here on the kernel answers for one process only), read the identity
again, compare, send through the pidfd. The tree is everything below the shim: as a subreaper it
inherits every orphan, so no descendant can leave, and `waitpid` answering "no child" proves that
none is left. A walk through /proc is not atomic; a parent is therefore checked again after its
child was read, and killing repeats (stop all, then kill all) until nothing is left to find.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Each pass stops what forked during the one before; a stopped process forks no more.
_STOP_PASSES = 20


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/<pid>/stat."""

    pid: int
    ppid: int
    ticks: int
    state: str
    threads: int

    @property
    def living(self) -> bool:
        """False for a zombie; a dead leader whose threads go on is alive."""
        return self.state not in "ZX" or self.threads > 1


@functools.cache
def boot_id() -> str:
    """The kernel's name of this boot: pids and ticks mean nothing outside it."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().decode().strip()


def identity(pid: int) -> tuple[int, int] | None:
    """(pid, start ticks since boot) of the process that has this pid now, None when none has."""
    process = read_process(pid)
    return None if process is None else (process.pid, process.ticks)


def read_process(pid: int) -> Process | None:
    """What /proc says of a pid, None when nobody has it."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    return parse_stat(data)


def parse_stat(data: bytes) -> Process | None:
    """Parse a stat line; the name in parentheses may itself hold spaces and parentheses."""
    head, _, tail = data.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    return Process(
        pid=int(head.split(b" ", 1)[0]),
        ppid=int(fields[1]),
        ticks=int(fields[19]),
        state=fields[0].decode("ascii"),
        threads=int(fields[17]),
    )


def processes() -> Iterator[Process]:
    """Every process that /proc shows, zombies included; newest first.

    What forks and exits for ever is the newest, and gone unless it is looked at right away.
    """
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc"))), reverse=True):
        process = read_process(pid)
        if process is not None:
            yield process


def below(root: int, table: Iterable[Process]) -> list[Process]:
    """The descendants of `root` in one table of processes, parents before children."""
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    level = children.get(root, [])
    while level:
        found += level
        level = [child for parent in level for child in children.get(parent.pid, [])]
    return found


def survivors(root: int) -> int:
    """How many descendants of `root` are alive."""
    return sum(process.living for process in below(root, processes()))


def signal_process(pid: int, ticks: int, number: int) -> bool:
    """Signal the process (pid, ticks); False when it is gone, was replaced, or is not ours to."""
    pidfd = open_pidfd(pid)
    try:
        if identity(pid) != (pid, ticks):
            return False
        return _send(pid, pidfd, number)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def signal_child(pid: int, number: int) -> None:
    """Signal an unreaped child of ours: nobody else can have its pid."""
    try:
        os.kill(pid, number)
    except PermissionError:
        pass  # it has become another user's


def signal_below(root: int, number: int) -> int:
    """Signal every descendant of `root`, once; how many it reached."""
    found = below(root, processes())
    ticks = _with_root(root, found)
    return sum(_signal_one(process, ticks, number) for process in found)


def kill_below(root: int) -> None:
    """One round of killing every descendant of `root`: stop all, so that none forks, then kill.

    Not a proof: the caller repeats it until it has no child left.
    """
    known = _with_root(root, [])
    for _ in range(_STOP_PASSES):
        if not _stop_fresh(root, known):
            break
    # The full table as well: not every kernel lists children.
    found = below(root, processes())
    ticks = _with_root(root, found)
    for process in found:
        _signal_one(process, ticks, signal.SIGKILL)


def _stop_fresh(root: int, known: dict[int, int]) -> int:
    """Stop the descendants that are not in `known` and add them; how many there were.

    Newest first and each at once: a process that forks and exits for ever has an age of well under
    a millisecond, and no list of all processes is that young.
    """
    fresh = 0
    parents = [root]
    while parents:
        for pid in reversed(_children(parents.pop())):
            process = read_process(pid)
            if process is None:
                continue
            if known.get(pid) != process.ticks:
                fresh += _signal_one(process, known, signal.SIGSTOP)
                known[pid] = process.ticks
            parents.append(pid)
    return fresh


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # ended meanwhile, or a kernel without this file
    return found


def open_pidfd(pid: int) -> int | None:
    """A pidfd, None when the process is gone or the kernel has none to give."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _with_root(root: int, found: list[Process]) -> dict[int, int]:
    own = identity(root)
    ticks = {} if own is None else {root: own[1]}
    return ticks | {process.pid: process.ticks for process in found}


def _signal_one(process: Process, ticks: dict[int, int], number: int) -> bool:
    pidfd = open_pidfd(process.pid)
    try:
        now = read_process(process.pid)
        if now is None or now.ticks != process.ticks:
            return False
        # Read after the child: its parent must still be the one that was found in the tree, else
        # a reused pid of a dead parent would make a stranger's child look like ours.
        if now.ppid not in ticks or identity(now.ppid) != (now.ppid, ticks[now.ppid]):
            return False
        return _send(process.pid, pidfd, number)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _send(pid: int, pidfd: int | None, number: int) -> bool:
    try:
        if pidfd is None:
            os.kill(pid, number)  # only without pidfds: the identity was compared just before
        else:
            signal.pidfd_send_signal(pidfd, number)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise
        return False
    return True
