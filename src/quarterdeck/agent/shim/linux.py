"""The few calls of Linux that the standard library does not offer, and their safe fallbacks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import termios
import time

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PIPE_BYTES = 1 << 20
_WRITE_AND_WAIT = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER

SHIM_NAME = "qd-shim"
BLOCKED_NAME = "qd-shim-blocked"
SPAWNER_NAME = "qd-spawner"

_SYS_CLONE3 = 435  # the same on every architecture
_CLONE_INTO_CGROUP = 0x200000000

# Loaded at import, so that a forked shim neither searches nor maps anything.
_libc = ctypes.CDLL(None, use_errno=True)
_libc_held = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock over the call


class _CloneArgs(ctypes.Structure):
    """struct clone_args of clone3(2)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def set_name(name: str) -> None:
    """Set the process name that `ps` and /proc/<pid>/comm show (at most 15 bytes)."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()), 0, 0, 0)


def fork_into(group: str) -> int:
    """As os.fork, with the child born in a cgroup: 0 in the child, its pid here.

    To move a process later makes the kernel wait for all processors, 1 to 10 ms. Only for a process
    with one thread, and a child that soon execs or exits: Python is not told of this fork. OSError
    where the kernel can't.
    """
    folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        args = _CloneArgs(flags=_CLONE_INTO_CGROUP, exit_signal=int(signal.SIGCHLD), cgroup=folder)
        pid = int(_libc_held.syscall(_SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args)))
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"clone3: {os.strerror(number)}")
        return pid
    finally:
        os.close(folder)


def become_subreaper() -> None:
    """Make orphans among our descendants children of ours, so that none leaves the tree."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


def is_blocked(pid: int) -> bool:
    """Whether the shim with this pid waits for a disk that takes no more bytes.

    Told through the process name: a full disk cannot take a message that it is full.
    """
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip() == BLOCKED_NAME
    except OSError:
        return False


def output_pipe() -> tuple[int, int]:
    """A pipe (read end, write end): read end non-blocking, enlarged when the kernel allows it."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass  # over the user's pipe quota: 64 KiB do as well, only with more wake-ups
    return read_end, write_end


def readable_bytes(pipe: int) -> int:
    """How many bytes a read of the pipe would find now."""
    answer = fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def write_out(fd: int) -> None:
    """Write a file's dirty pages to the disk and wait for them, but not for the disk's cache."""
    if _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"sync_file_range: {os.strerror(number)}")


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor of this process except the named ones."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself


def ensure_stdio() -> None:
    """Fill descriptors 0, 1 and 2, so that none of ours ever gets one of these numbers."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def boot_clock() -> float:
    """Seconds since boot, counting suspend: not moved by a step of the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
