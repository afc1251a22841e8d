"""A terminal for a command that wants one.

The shim leads the session of the terminal and the command the group in its foreground. So the end
of the command hangs nothing up, and its last output can be read; a session leader's end throws away
what the terminal still holds. The terminal hangs up when the shim ends: what is left in the
foreground gets SIGHUP then, as after a logout.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios

# What a terminal can hold back from its reader: the buffers of both its ends.
HELD_BYTES = 1 << 17


def open_terminal(rows: int, columns: int) -> tuple[int, int]:
    """A terminal of this size (our end, the command's end) that controls this session.

    Only for the leader of a session that has none. Nobody types here: who reads finds an end of
    file, once.
    """
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    os.write(ours, b"\x04")
    return ours, theirs


def put_in_front(terminal: int, pid: int) -> None:
    """Make a child of ours lead the foreground group; call it before the child may exec."""
    try:
        os.setpgid(pid, pid)
        os.tcsetpgrp(terminal, pid)
    except OSError:
        pass  # killed at its gate by somebody: its end will be reaped


def has_output(ours: int) -> bool:
    """Whether a read would find something, or the end, now."""
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    return bool(poll.poll(0))
