"""A cgroup per attempt, where the machine allows it: killing becomes one atomic write.

Nothing is concluded from mounts, versions or systemd: `probe` makes a group, moves a process in,
kills it and removes the group. The shim stays outside, so killing the group never kills it.
"""

from __future__ import annotations

import os
import re
import signal
import time

_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_PREFIX = "qd-attempt-"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")
_REMOVE_TRIES = 20
_REMOVE_PAUSE_S = 0.002


def probe() -> str | None:
    """The folder below which attempts can have their group, None when that does not work here.

    Forks; needs SIGCHLD at its default.
    """
    own = _own_path()
    if own is None:
        return None
    for root in _ROOTS:
        parent = os.path.normpath(root + own)
        # Without this file it is no cgroup but, say, the tmpfs that holds the old hierarchies.
        if os.path.exists(os.path.join(parent, "cgroup.procs")) and _works(parent):
            remove_stale(parent)
            return parent
    return None


def make(parent: str, attempt: str) -> str | None:
    """A new group for an attempt, None when it cannot be made."""
    name = _NOT_PLAIN.sub("_", attempt)[:100]
    # The pid keeps two state directories with one attempt id apart.
    group = os.path.join(parent, f"{_PREFIX}{name}-{os.getpid()}")
    try:
        os.mkdir(group)
    except OSError:
        return None
    return group


def move(group: str, pid: int) -> bool:
    """Move a process, and so all it will fork, into a group."""
    return _write(group, "cgroup.procs", str(pid))


def kill(group: str) -> bool:
    """SIGKILL everything in the group, also what forks at this moment."""
    return _write(group, "cgroup.kill", "1")


def freeze(group: str) -> bool:
    """Stop everything in the group, also what forks at this moment; killing still works."""
    return os.path.basename(group).startswith(_PREFIX) and _write(group, "cgroup.freeze", "1")


def thaw(group: str) -> None:
    """Let the group go on."""
    _write(group, "cgroup.freeze", "0")


def remove(group: str) -> bool:
    """Remove the group when it is empty; the kernel may need a moment after the last end."""
    for _ in range(_REMOVE_TRIES):
        try:
            os.rmdir(group)
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return True
    return False


def remove_stale(parent: str) -> None:
    """Remove empty groups that dead shims, or survivors that ended later, left behind."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            try:
                os.rmdir(os.path.join(parent, name))
            except OSError:
                pass  # still in use, or somebody else was faster


def _own_path() -> str | None:
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.startswith("0::"):
                    return line[3:].rstrip("\n")
    except OSError:
        pass
    return None


def _works(parent: str) -> bool:
    group = make(parent, "probe")
    if group is None:
        return False
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    worked = move(group, pid) and kill(group)
    if not worked:
        os.kill(pid, signal.SIGKILL)  # our own unreaped child: the pid cannot have been reused
    _, status = os.waitpid(pid, 0)
    removed = remove(group)
    return worked and removed and os.WIFSIGNALED(status)


def _write(group: str, name: str, text: str) -> bool:
    try:
        fd = os.open(os.path.join(group, name), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
