"""The child: forked, made ready, held at a gate until `started` is on disk, then the order itself.

The gate is a pipe. One byte opens it; its end without a byte (the shim died, or the attempt was
stopped before it began) means that the order must not run. What goes wrong on the way to exec is
said twice: on the child's stderr, for the log, and on the fault pipe, for `exit.json`.

Another user than ours gets nothing of the attempt's directory: its script and its input are its own
files there, which it reaches through descriptors only, and its pipes are its own.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from typing import NoReturn

from quarterdeck.agent.shim.files import Account, Order
from quarterdeck.agent.shim.linux import close_all_but, fork_into, output_pipe
from quarterdeck.agent.shim.terminal import open_terminal, put_in_front

_OPEN = b"\x01"
NOT_FOUND = 127
NOT_STARTED = 126
NEVER_OPENED = 125
_DEFAULT_INTERPRETER = b"/bin/sh"
# A carriage return is no space to the kernel, and so not here: the error then shows it.
_SHEBANG = re.compile(rb"#![ \t]*([^ \t\n]*)[ \t]*([^\n]*)")
FAULT_BYTES = 4096  # at most PIPE_BUF: written, and read, at once


@dataclass(frozen=True, slots=True)
class Child:
    """A forked child at its gate, and our ends of its pipes; `stderr` None: it has a terminal."""

    pid: int
    gate: int
    fault: int
    stdout: int
    stderr: int | None
    grouped: bool

    def open_gate(self) -> None:
        """Let it exec; at most once."""
        try:
            os.write(self.gate, _OPEN)
        except BrokenPipeError:
            pass  # killed at the gate by somebody: its end will be reaped
        os.close(self.gate)

    def shut_gate(self) -> None:
        """Let it exit without exec."""
        os.close(self.gate)


@dataclass(frozen=True, slots=True)
class Command:
    """What to exec; `search` looks a bare name up in the order's PATH."""

    argv: tuple[bytes, ...]
    search: bool


def command(order: Order, script_path: str) -> Command:
    """The command of an order; a script is run by its interpreter: noexec mounts do not matter."""
    args = tuple(os.fsencode(arg) for arg in order.args)
    if order.script is not None:
        return Command((*interpreter(order.script), os.fsencode(script_path), *args), search=False)
    argv = tuple(os.fsencode(arg) for arg in order.argv or ())
    return Command((*argv, *args), search=True)


def interpreter(script: bytes) -> tuple[bytes, ...]:
    """The interpreter of a script and at most one argument, as the kernel reads a `#!` line."""
    line = _SHEBANG.match(script)
    words = line.groups() if line else ()
    return tuple(word.rstrip(b" \t") for word in words if word) or (_DEFAULT_INTERPRETER,)


def other_account(order: Order) -> Account | None:
    """Whom the command has to become; None when that is who we are."""
    account = order.account
    return account if account is not None and os.geteuid() == 0 else None


def fork_child(order: Order, folder: str, group: str | None) -> Child:
    """Fork the child of an order, into a cgroup where the kernel can; it waits at its gate."""
    gate_read, gate_write = os.pipe()
    fault_read, fault_write = os.pipe()
    terminal = None
    if order.pty is None:
        out_read, out_write = output_pipe()
        err_read, err_write = output_pipe()
    else:
        out_read, terminal = open_terminal(*order.pty)
        out_write, err_read, err_write = terminal, None, terminal
    account = other_account(order)
    if account is not None:
        for fd in {out_write, err_write}:
            os.fchown(fd, account.uid, account.gid)  # else it could not open /dev/stderr
    pid, grouped = _fork(group)
    if pid == 0:
        try:
            _prepare(gate_read, fault_write, out_write, err_write, terminal)
            _become(order, folder, gate_read, fault_write)
        finally:
            os._exit(NOT_STARTED)
    if terminal is not None:
        put_in_front(terminal, pid)
    for fd in {gate_read, fault_write, out_write, err_write}:
        os.close(fd)
    os.set_blocking(fault_read, False)
    return Child(pid, gate_write, fault_read, out_read, err_read, grouped)


def _fork(group: str | None) -> tuple[int, bool]:
    """(what a fork gives, whether the child is in the group)."""
    if group is not None:
        try:
            return fork_into(group), True
        except OSError:
            pass  # an old kernel, or one that forbids it: fork, and move the child
    return os.fork(), False


def _prepare(gate: int, fault: int, stdout: int, stderr: int, terminal: int | None) -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    if terminal is None:
        os.setsid()
    else:
        os.dup2(terminal, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    close_all_but({0, 1, 2, gate, fault})
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become(order: Order, folder: str, gate: int, fault: int) -> NoReturn:
    if os.read(gate, 1) != _OPEN:
        os._exit(NEVER_OPENED)
    os.close(gate)
    what = "read its input"
    try:
        if order.stdin is not None:
            fd = os.open(os.path.join(folder, "stdin"), os.O_RDONLY)
            os.dup2(fd, 0)
            os.close(fd)
        path = os.path.join(folder, "script")
        account = other_account(order)
        if account is not None:
            what = "read its script"
            if order.script is not None:
                # the folder is closed to the user; through the descriptor the file is not
                fd = os.open(path, os.O_RDONLY)
                os.set_inheritable(fd, True)
                path = f"/proc/self/fd/{fd}"
            what = f"become user {account.uid}"
            os.setgroups(account.groups)
            os.setgid(account.gid)
            os.setuid(account.uid)
        if order.umask is not None:
            os.umask(order.umask)
        what = f"enter the working directory {_shown(order.cwd or '')}"
        _enter(order)
        todo = command(order, path)
        what = f"run {_shown(os.fsdecode(todo.argv[0]))}"
        if todo.search:
            os.execvpe(todo.argv[0], todo.argv, order.environ)
        what = f"run the interpreter {_shown(os.fsdecode(todo.argv[0]))} of the script"
        os.execve(todo.argv[0], todo.argv, order.environ)
    except (OSError, ValueError) as error:
        _fail(fault, what, error)


def _enter(order: Order) -> None:
    """The order's directory; without one the home of its user, where there is one."""
    if order.cwd is not None:
        os.chdir(order.cwd)
    elif order.account is not None:
        try:
            os.chdir(order.account.home)
        except OSError:
            os.chdir("/")


def _shown(name: str) -> str:
    # A stray control character, such as the carriage return of a script from Windows, must show.
    return f'"{name}"' if name.isprintable() else repr(name)


def _fail(fault: int, what: str, error: OSError | ValueError) -> NoReturn:
    missing = what.startswith("run ") and isinstance(error, FileNotFoundError)
    why = error.strerror if isinstance(error, OSError) else str(error)
    advice = "check the name and PATH" if missing else "check the order"
    if missing and "interpreter" in what:
        advice = "install it, or correct the first line of the script,"
    sentence = f"Cannot {what}: {why}; {advice} on this node."
    data = sentence.encode("utf-8", "backslashreplace")[:FAULT_BYTES]
    try:
        os.write(fault, data)
        os.write(2, data + b"\n")
    finally:
        os._exit(NOT_FOUND if missing else NOT_STARTED)
