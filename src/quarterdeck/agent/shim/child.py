"""The child: forked, made ready, held at a gate until `started` is on disk, then the order itself.

The gate is a pipe. One byte opens it; its end without a byte (the shim died, or the attempt was
stopped before it began) means that the order must not run. What goes wrong on the way to exec is
said twice: on the child's stderr, for the log, and on the fault pipe, for `exit.json`.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from typing import NoReturn

from quarterdeck.agent.shim.files import Order
from quarterdeck.agent.shim.linux import close_all_but, fork_into, output_pipe

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
    """A forked child at its gate, and our ends of its pipes."""

    pid: int
    gate: int
    fault: int
    stdout: int
    stderr: int
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


def fork_child(order: Order, folder: str, group: str | None) -> Child:
    """Fork the child of an order, into a cgroup where the kernel can; it waits at its gate."""
    gate_read, gate_write = os.pipe()
    fault_read, fault_write = os.pipe()
    out_read, out_write = output_pipe()
    err_read, err_write = output_pipe()
    pid, grouped = _fork(group)
    if pid == 0:
        try:
            _prepare(gate_read, fault_write, out_write, err_write)
            _become(order, folder, gate_read, fault_write)
        finally:
            os._exit(NOT_STARTED)
    for fd in (gate_read, fault_write, out_write, err_write):
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


def _prepare(gate: int, fault: int, stdout: int, stderr: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
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
        if order.cwd is not None:
            what = f"enter the working directory {_shown(order.cwd)}"
            os.chdir(order.cwd)
        todo = command(order, os.path.join(folder, "script"))
        what = f"run {_shown(os.fsdecode(todo.argv[0]))}"
        if todo.search:
            os.execvpe(todo.argv[0], todo.argv, order.environ)
        os.execve(todo.argv[0], todo.argv, order.environ)
    except (OSError, ValueError) as error:
        _fail(fault, what, error)


def _shown(name: str) -> str:
    # A stray control character, such as the carriage return of a script from Windows, must show.
    return f'"{name}"' if name.isprintable() else repr(name)


def _fail(fault: int, what: str, error: OSError | ValueError) -> NoReturn:
    missing = what.startswith("run ") and isinstance(error, FileNotFoundError)
    why = error.strerror if isinstance(error, OSError) else str(error)
    advice = "check the name and PATH" if missing else "check the order"
    sentence = f"Cannot {what}: {why}; {advice} on this node."
    data = sentence.encode("utf-8", "backslashreplace")[:FAULT_BYTES]
    try:
        os.write(fault, data)
        os.write(2, data + b"\n")
    finally:
        os._exit(NOT_FOUND if missing else NOT_STARTED)
