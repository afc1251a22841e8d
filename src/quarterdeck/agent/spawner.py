"""The spawner: a small warm process that forks shims, so that a start costs a fork and no import.

`python -I -m quarterdeck.agent.spawner --fd N`, where N is one end of a SOCK_SEQPACKET socketpair.
One message is one JSON object: {"id", "dir"} with the attempt's lock as SCM_RIGHTS, answered by
{"id", "pid", "ticks"} or {"id", "error"}. A bad message is answered, never fatal; the end of the
socket ends the spawner, and the shims live on. It has one thread, imports only the standard
library and the shim, and keeps nothing: killing it loses nothing.
"""

from __future__ import annotations

import argparse
import array
import fcntl
import gc
import json
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any, NoReturn

from quarterdeck.agent.shim import cgroup, linux, main, tree

_MESSAGE_BYTES = 65536
_MOST_FDS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """A message that can be acted on: fork a shim for `folder`."""

    id: int
    folder: str


class BadRequest(Exception):
    """What is wrong with a message, as a sentence; `id` when the message got so far as to tell."""

    def __init__(self, request_id: int | None, sentence: str) -> None:
        super().__init__(sentence)
        self.id = request_id


def parse(data: bytes) -> Request:
    """Read one message. BadRequest: what is wrong with it."""
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise BadRequest(None, f"The message is not JSON: {error}.") from None
    request_id = raw.get("id") if isinstance(raw, dict) else None
    if type(request_id) is not int:
        raise BadRequest(None, 'The message has no "id" that is a number.')
    folder = raw.get("dir")
    if not isinstance(folder, str) or not os.path.isabs(folder) or "\0" in folder:
        raise BadRequest(request_id, 'The message has no "dir" that is an absolute path.')
    return Request(request_id, os.path.normpath(folder))


def check(request: Request, fds: list[int]) -> int:
    """The lock to hand to the shim. BadRequest: why this attempt must not be started."""
    if len(fds) != 1:
        raise BadRequest(request.id, f"The message carries {len(fds)} descriptors instead of one.")
    try:
        there = os.stat(os.path.join(request.folder, "lock"))
        given = os.fstat(fds[0])
    except OSError as error:
        raise BadRequest(request.id, f"The attempt has no usable lock: {error}.") from None
    if (there.st_dev, there.st_ino) != (given.st_dev, given.st_ino):
        raise BadRequest(request.id, f"The descriptor is not the lock of {request.folder}.")
    try:
        # Held through this very descriptor, this does nothing; held through another, it fails.
        fcntl.flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BadRequest(request.id, f"{request.folder} is locked by another: {error}.") from None
    for name in ("started", "exit.json"):
        if os.path.lexists(os.path.join(request.folder, name)):
            raise BadRequest(request.id, f"{request.folder} was started before: it has {name}.")
    return fds[0]


def serve(link: socket.socket, cgroup_parent: str | None) -> None:
    """Answer messages until the other end closes.

    Waits for: the next message.
    """
    while True:
        try:
            data, ancillary, flags, _ = link.recvmsg(
                _MESSAGE_BYTES, socket.CMSG_SPACE(_MOST_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return
        fds = _descriptors(ancillary)
        if not data and not fds:
            return
        try:
            answer = _answer(link, data, fds, flags, cgroup_parent)
        finally:
            for fd in fds:
                os.close(fd)
        try:
            link.send(json.dumps(answer).encode())
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(
    link: socket.socket, data: bytes, fds: list[int], flags: int, cgroup_parent: str | None
) -> dict[str, Any]:
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadRequest(None, "The message is too long.")
        request = parse(data)
        lock = check(request, fds)
        try:
            pid, ticks = _fork_shim(link, request.folder, lock, cgroup_parent)
        except OSError as error:
            raise BadRequest(request.id, f"Cannot fork a shim: {error}.") from None
    except BadRequest as bad:
        return {"id": bad.id, "error": str(bad)}
    return {"id": request.id, "pid": pid, "ticks": ticks}


def _fork_shim(
    link: socket.socket, folder: str, lock: int, cgroup_parent: str | None
) -> tuple[int, int]:
    # The shim waits at a gate, so that it cannot end (and its pid be reused) before its identity
    # was read; should the spawner die here, the gate opens all the same.
    gate_read, gate_write = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _be_shim(link, folder, lock, cgroup_parent, gate_read, gate_write)
        identity = tree.identity(pid)
    finally:
        os.close(gate_read)
        os.close(gate_write)
    return identity if identity is not None else (pid, 0)


def _be_shim(
    link: socket.socket,
    folder: str,
    lock: int,
    cgroup_parent: str | None,
    gate_read: int,
    gate_write: int,
) -> NoReturn:
    code = 1
    try:
        link.close()
        os.close(gate_write)
        os.read(gate_read, 1)
        main.run(folder, lock, cgroup_parent)
        code = 0
    finally:
        # Never back into the spawner's stack; the lock ends with the process.
        os._exit(code)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: array.array[int] = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def run(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="qd-spawner")
    parser.add_argument("--fd", type=int, required=True, help="our end of the socketpair")
    parser.add_argument(
        "--no-cgroup", action="store_true", help="kill by walking processes only, without cgroups"
    )
    options = parser.parse_args(arguments)
    linux.ensure_stdio()
    link = socket.socket(fileno=options.fd)
    link.setblocking(True)
    linux.set_name(linux.SPAWNER_NAME)
    # A Ctrl-C or a hang-up reaches the whole terminal group; the agent's end is ours.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    cgroup_parent = None if options.no_cgroup else cgroup.probe()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are reaped by the kernel
    tree.boot_id()  # known to every shim from its birth
    gc.collect()
    gc.freeze()  # what is there now is never walked again, so its pages stay shared
    serve(link, cgroup_parent)
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
