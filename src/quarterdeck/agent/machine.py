"""A machine as it is: directories and locks, shims made by the spawner, inotify, figures of /proc.

It needs the standard library alone, with what it imports, because it also goes where nothing else
of ours is installed (agent/ssh). `agent/local.py` makes it the host of the agent that runs on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from quarterdeck.agent.figures import Figures
from quarterdeck.agent.follow import DirectoryWatch, Follower
from quarterdeck.agent.held import REVOKED, Held, Refusal, Remains, Request, Terms
from quarterdeck.agent.journal import Journal
from quarterdeck.agent.process import Spawner, until_gone
from quarterdeck.agent.shim import files, tree
from quarterdeck.agent.shim.sweep import sweep
from quarterdeck.errors import Conflict, Unavailable
from quarterdeck.service import free_bytes, lock_directory

SWEEP_S = 10.0
SHIM_LOOK_S = 0.05
INLINE_BYTES = 256 << 10  # what is read without a thread


class Machine:
    """This machine, with its state directory. `mark` names the variable by which what a dead shim
    left is found."""

    def __init__(self, state: Path, mark: str, spawner: Spawner | None = None) -> None:
        self._state = state
        self._mark = mark
        self._lock: int | None = None
        self.journal = Journal(state)
        self._shims = Shims(self.journal, spawner or Spawner())
        self._follower = Follower()
        self._figures = Figures(state)

    async def start(self) -> None:
        """Take the state directory. Raises Conflict or Unavailable."""
        try:
            # made here, the folder around it is private too: it may be the data directory
            for directory in (self._state.parent, self._state):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(self._state)
            self.journal.open()
        except OSError as error:
            raise Unavailable(
                "state_directory",
                f"The state directory {self._state} can't be used: {error.strerror or error}.",
            ) from error
        self._follower.start()
        self._shims.start()

    async def stop(self) -> None:
        """Give it up; shims live on."""
        self._follower.stop()
        self._shims.stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def scan(self) -> list[str]:
        return self.journal.scan()

    async def write_order(self, attempt: str, order: Mapping[str, Any]) -> None:
        """Accept an order (`files.order_json`). Raises OSError."""
        await asyncio.to_thread(self.journal.accept, attempt, order)

    def look(self, attempt: str) -> Held | None:
        return self.journal.look(attempt)

    async def terms(self, attempt: str) -> Terms:
        return await asyncio.to_thread(self.journal.terms, attempt)

    def claim(self, attempt: str) -> RealClaim | None:
        fd = self.journal.lock(attempt)
        if fd is None:
            return None
        if _shim_lives(self.journal.look(attempt)):  # somebody deleted the lock that it holds
            os.close(fd)
            return None
        return RealClaim(attempt, fd, self.journal, self._shims, self._mark)

    async def until_shim_gone(self, attempt: str) -> None:
        while self.journal.look(attempt) is not None:
            await self._shims.until_gone(attempt)
            claim = self.claim(attempt)
            if claim is not None:
                claim.close()
                return
            await asyncio.sleep(SHIM_LOOK_S)

    async def ask(self, attempt: str, request: Request | None) -> None:
        if request is not None:
            await asyncio.to_thread(self.journal.ask, attempt, request)
        # looked at after the write: a shim without `started` will read what is there by itself
        held = self.journal.look(attempt)
        if held is not None and held.started is not None:
            shim = held.started.shim
            tree.signal_process(shim.pid, shim.ticks, signal.SIGUSR1)

    async def release(self, attempt: str) -> None:
        await asyncio.to_thread(self.journal.release, attempt)

    async def bury(self, attempt: str, why: Refusal = REVOKED) -> None:
        await asyncio.to_thread(self.journal.bury, attempt, why, durable=True)

    def buried(self, attempt: str) -> Refusal | None:
        return self.journal.buried(attempt)

    async def prune(self, before: float) -> int:
        return await asyncio.to_thread(self.journal.prune, before)

    def watch(
        self,
        attempt: str,
        changed: Callable[[], None],
        output: Callable[[], None] | None = None,
    ) -> DirectoryWatch:
        return self._follower.add(self.journal.directory(attempt), changed, output)

    def spool(self, attempt: str) -> RealSpool:
        return RealSpool(attempt, self.journal)

    def figures(self) -> dict[str, Any]:
        """The fields of a `LoadMessage`; processor use is since the last reading."""
        return self._figures.read()

    def free_bytes(self) -> int:
        return free_bytes(self._state)

    def contact(self) -> None:
        (self._state / "contact").touch()


class Shims:
    """Shims made by this agent, known by what the spawner answered; others by their `started`."""

    def __init__(self, journal: Journal, spawner: Spawner) -> None:
        self._journal = journal
        self._spawner = spawner
        self._made: dict[str, files.Identity] = {}

    def start(self) -> None:
        self._spawner.start()

    def stop(self) -> None:
        self._spawner.stop()

    async def fork(self, attempt: str, lock: int) -> int:
        """Make a shim that has the lock; its pid. Raises Broken."""
        shim = await self._spawner.fork(self._journal.directory(attempt), lock)
        if shim.ticks:
            self._made[attempt] = shim
        return shim.pid

    async def until_gone(self, attempt: str) -> None:
        """Wait for the end of the attempt's shim, if it is known; only one that was adopted in the
        moment before it has written `started` is not."""
        shim = self._made.pop(attempt, None)
        held = self._journal.look(attempt)
        if shim is None and held is not None and held.started is not None:
            shim = held.started.shim if _is_of_this_boot(held.started) else None
        if shim is not None:
            await until_gone(shim.pid, shim.ticks)


class RealClaim:
    """The descriptor of an attempt's lock."""

    def __init__(self, attempt: str, fd: int, journal: Journal, shims: Shims, mark: str) -> None:
        self._mark = mark
        self._attempt = attempt
        self._fd: int | None = fd
        self._journal = journal
        self._shims = shims

    async def start(self) -> int:
        fd, self._fd = self._fd, None
        assert fd is not None, "the claim was closed"
        return await self._shims.fork(self._attempt, fd)

    async def clear(self, held: Held) -> Remains:
        survivors = 0
        rebooted = False
        if held.started is not None:
            rebooted = not _is_of_this_boot(held.started)
            started = files.started_json(held.started)
            killed = partial(sweep, f"{self._mark}={self._attempt}", started, deadline_s=SWEEP_S)
            survivors = await asyncio.to_thread(killed)
        streams = await asyncio.to_thread(self._journal.stream_ends, self._attempt)
        return Remains(streams=streams, survivors=survivors, rebooted=rebooted)

    async def end(self, end: files.Exit) -> None:
        await asyncio.to_thread(self._journal.end, self._attempt, end)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class RealSpool:
    """The files of one attempt, opened when they are there."""

    def __init__(self, attempt: str, journal: Journal) -> None:
        self._attempt = attempt
        self._journal = journal
        self._directory = journal.directory(attempt)
        self._files: dict[str, int] = {}

    async def size(self, name: str) -> int:
        fd = self._open(name)
        return 0 if fd is None else os.fstat(fd).st_size

    async def read(self, name: str, offset: int, length: int) -> bytes:
        fd = self._open(name)
        if fd is None:
            return b""
        if length > INLINE_BYTES:
            return await asyncio.to_thread(os.pread, fd, length, offset)
        return os.pread(fd, length, offset)

    async def read_behind(self, room: int, name: str, offset: int, length: int) -> bytearray:
        fd = self._open(name)
        if fd is None:
            return bytearray(room)
        data = bytearray(room + min(length, INLINE_BYTES))
        with memoryview(data) as whole, whole[room:] as view:
            count = os.preadv(fd, [view], offset)
        del data[room + count :]
        return data

    def acked(self) -> dict[str, int]:
        return self._journal.acked(self._attempt)

    def save_acked(self, offsets: dict[str, int]) -> None:
        self._journal.save_acked(self._attempt, offsets)

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _open(self, name: str) -> int | None:
        if name not in self._files:
            with contextlib.suppress(FileNotFoundError):
                self._files[name] = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._files.get(name)


def _is_of_this_boot(started: files.Started) -> bool:
    return started.boot_id == tree.boot_id()


def _shim_lives(held: Held | None) -> bool:
    if held is None or held.started is None or not _is_of_this_boot(held.started):
        return False
    process = tree.read_process(held.started.shim.pid)
    return process is not None and process.living and process.ticks == held.started.shim.ticks


def _lock(state: Path) -> int:
    fd = lock_directory(state)
    if fd is None:
        raise Conflict(
            "state_in_use",
            f"The state directory {state} is in use by another agent; stop it first, "
            "or give this one a directory of its own.",
        )
    return fd
