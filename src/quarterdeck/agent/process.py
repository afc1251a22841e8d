"""Processes on the node: the spawner that forks shims, and waiting for a shim to be gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from quarterdeck.agent.shim.files import Identity
from quarterdeck.agent.shim.tree import identity
from quarterdeck.errors import Broken

REPLY_BYTES = 65536
REPLY_S = 10.0
Program = Callable[[Sequence[str], int], "subprocess.Popen[bytes]"]


def installed_spawner(arguments: Sequence[str], fd: int) -> subprocess.Popen[bytes]:
    """The spawner of this installation."""
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "quarterdeck.agent.spawner", *arguments],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


class Spawner:
    """The small process that forks shims. It is started when needed and again when it died.

    `program` is a Python process that runs `quarterdeck.agent.spawner` with the arguments that it
    is given, and inherits the descriptor that it is given.
    """

    def __init__(self, program: Program | None = None) -> None:
        self._program = program or installed_spawner
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[Identity]] = {}
        self._number = 0

    def start(self) -> None:
        """Start the spawner now, so that the first attempt does not wait for it."""
        self._connection()

    async def fork(self, directory: Path, lock_fd: int) -> Identity:
        """Fork a shim for an attempt; who it is (ticks 0: gone already).

        The lock's descriptor is handed over and closed. Raises Broken when the spawner can't; then
        no shim exists.
        """
        try:
            connection = self._connection()
            self._number += 1
            number = self._number
            future: asyncio.Future[Identity] = asyncio.get_running_loop().create_future()
            self._waiting[number] = future
            message = json.dumps({"id": number, "dir": os.fspath(directory)}).encode()
            try:
                socket.send_fds(connection, [message], [lock_fd])
            except OSError as error:
                self._lost()
                raise Broken("spawner", f"The spawner died ({error}); try again.") from error
        finally:
            os.close(lock_fd)
        try:
            async with asyncio.timeout(REPLY_S):
                return await future
        except TimeoutError as error:
            # what it has not read yet, the lock too, is gone with it; what it forked lives on
            if self._process is not None:
                self._process.kill()
            self._lost()
            raise Broken(
                "spawner", f"The spawner did not answer for {REPLY_S:g} s and was killed."
            ) from error

    def stop(self) -> None:
        """Let the spawner go; shims live on."""
        self._lost()

    def _connection(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._lost()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            fd = theirs.fileno()
            self._process = self._program(("--fd", str(fd)), fd)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._read)
        return ours

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(REPLY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        reply = json.loads(data)
        future = self._waiting.pop(reply["id"], None)
        if future is None or future.done():
            return
        if "pid" in reply:
            future.set_result(Identity(reply["pid"], reply["ticks"]))
        else:
            future.set_exception(Broken("spawner", reply["error"]))

    def _lost(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Broken("spawner", "The spawner died before it answered."))
        self._waiting.clear()


async def until_gone(pid: int, ticks: int | None) -> None:
    """Wait until the process with this pid and start time has ended; at once when it has."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        present = identity(pid)
        if present is None or (ticks is not None and present[1] != ticks):
            return
        loop.add_reader(fd, lambda: _resolve(gone))
        await gone
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
