"""The command: forked first of all, with pipes or below a terminal's leader, then executed."""

from __future__ import annotations

import errno
import os
import stat

from quarterdeck.tt import signals

_NOT_FOUND = 127
_NOT_STARTED = 126


class Child:
    """A started command and our ends of what it writes to; -1: there is no such pipe.

    `terminal` is our end of its terminal. `grouped`: it leads a group of its own.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, *, grouped: bool) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.grouped = grouped


def start(command: list[str]) -> Child:
    """Start it with our standard input, and pipes for both outputs.

    Without a terminal it leads a group of its own, so that a signal reaches all of it. With one it
    stays in ours: the terminal's keys then reach it as they would without us, and another program
    of the same pipeline keeps the terminal.
    """
    grouped = not _has_terminal()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if grouped:
                os.setpgid(0, 0)
            os.dup2(out_write, 1)
            os.dup2(err_write, 2)
            become(command)
        finally:
            os._exit(_NOT_STARTED)
    if grouped:
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it has done so, and is a program by now
    os.close(out_write)
    os.close(err_write)
    for fd in (out_read, err_read):
        os.set_blocking(fd, False)
    return Child(pid, out_read, err_read, grouped=grouped)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def become(command: list[str]) -> None:
    """Execute it, or say why not on standard error and exit as a shell would."""
    signals.restore()
    if len(command) == 1:
        text = command[0]
        fault = _execute("bash", ["bash", "-c", text])
        if fault.errno == errno.ENOENT:
            fault = _execute("/bin/sh", ["sh", "-c", text])
        shown = "bash"
    else:
        fault = _execute(command[0], command)
        shown = command[0]
    missing = fault.errno == errno.ENOENT
    why = "command not found" if missing else (fault.strerror or str(fault))
    os.write(2, f"tt: {shown}: {why}\n".encode("utf-8", "surrogateescape"))
    os._exit(_NOT_FOUND if missing else _NOT_STARTED)


def _execute(program: str, argv: list[str]) -> OSError:
    """Does not return when it works; the most telling error."""
    if "/" in program:
        places = [program]
    else:
        path = os.environ.get("PATH", os.defpath)
        places = [os.path.join(folder or ".", program) for folder in path.split(":")]
    found = OSError(errno.ENOENT, "command not found")
    for place in places if program else ():
        try:
            os.execv(place, argv)
        except OSError as error:
            if error.errno == errno.ENOEXEC:  # a script without a first line that names a program
                return _execute("/bin/sh", ["sh", place, *argv[1:]])
            if error.errno == errno.ENOENT and _is_there(place):
                found = OSError(errno.EACCES, "its interpreter does not exist")
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                found = error
        except ValueError as error:  # a NUL byte
            return OSError(errno.EINVAL, str(error))
    return found


def _is_there(place: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(place).st_mode)
    except OSError:
        return False
