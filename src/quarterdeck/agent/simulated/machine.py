"""The machine itself: directories on a disk that can fill and lose what was not synced, processes.

It outlives the agents that run on it (`host.py`). Faults are `kill_shim`, `reboot`, and the flags
`full` (the disk) and `no_forks`. `truth` is what really happened to each attempt, which nobody on
the machine reads: it is there for whoever checks that what was told is what was.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable

from quarterdeck.agent.held import REVOKED, Held, Refusal
from quarterdeck.agent.shim import files
from quarterdeck.agent.simulated.shim import SimulatedShim
from quarterdeck.core.ids import split_attempt
from quarterdeck.core.liveness import SHORT
from quarterdeck.core.model import STREAMS
from quarterdeck.service import Clock
from quarterdeck.wire.run import OrderMessage

SESSIONS = 32
FREE_BYTES = 100 << 30
FIRST_PID = 1000
TICKS_PER_S = 100


class Truth:
    """What really happened to one attempt."""

    def __init__(self) -> None:
        self.accepted = 0
        self.execs = 0
        self.code: int | None = None
        self.signal: int | None = None
        self.exited = False
        self.shim_killed = False
        self.signals: list[int] = []
        self.written = {stream: bytearray() for stream in STREAMS}


class Directory:
    """One attempt's directory. `holder` is its shim, a claim, or nobody."""

    def __init__(self, attempt: str, order: OrderMessage, accepted_at: float) -> None:
        self.attempt = attempt
        self.order = order
        self.accepted_at = accepted_at
        self.started: files.Started | None = None
        self.stop: files.Stop | None = None
        self.signals: tuple[files.Signal, ...] = ()
        self.signalled = 0
        self.gone_at: float | None = None
        self.overdue = False
        self.alerted = False
        self.end: files.Exit | None = None
        self.output = {name: bytearray() for name in (*STREAMS, "times")}
        self.dropped = dict.fromkeys(STREAMS, 0)
        self.synced = dict.fromkeys(self.output, 0)
        self.acked: dict[str, int] = {}
        self.holder: object | None = None
        self.watchers: dict[object, Callable[[], None]] = {}
        self.waiting: list[asyncio.Event] = []

    def held(self) -> Held:
        """As the journal shows it."""
        facts = (
            self.started,
            self.stop,
            self.signals or None,
            self.signalled or None,
            self.overdue or None,
            self.alerted or None,
            self.end,
            self.gone_at,
        )
        return Held(
            attempt=self.attempt,
            accepted_at=self.accepted_at,
            started=self.started,
            stop=self.stop,
            overdue=self.overdue,
            alerted=self.alerted,
            end=self.end,
            signals=self.signals,
            signalled=self.signalled,
            gone_at=self.gone_at,
            facts=1 + sum(fact is not None for fact in facts),
        )

    def stream_ends(self) -> dict[str, files.StreamEnd]:
        """Length and hash of the output."""
        return {
            stream: files.StreamEnd(
                bytes=len(self.output[stream]),
                sha256=hashlib.sha256(self.output[stream]).hexdigest(),
                dropped=self.dropped[stream],
            )
            for stream in STREAMS
        }

    def sync(self) -> None:
        """What was written survives a power cut from now on."""
        self.synced = {name: len(data) for name, data in self.output.items()}

    def changed(self) -> None:
        """Tell who watches."""
        for watcher in list(self.watchers.values()):
            watcher()

    def freed(self) -> None:
        """The shim is gone."""
        self.holder = None
        waiting, self.waiting = self.waiting, []
        for gone in waiting:
            gone.set()


class SimulatedMachine:
    """Disk, processes and kernel of one node. Use inside a running event loop."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.boots = 1
        self.directories: dict[str, Directory] = {}
        self.tombstones: dict[str, tuple[float, Refusal]] = {}
        self.truth: dict[str, Truth] = {}
        self.shims: dict[str, SimulatedShim] = {}
        self.owner: object | None = None
        self.sessions: tuple[str, ...] = ()
        self.full = False
        self.no_forks = False
        self.contact_at = clock.monotonic()
        self.on_exec: Callable[[str], None] = lambda _attempt: None
        self.on_remove: Callable[[str], None] = lambda _attempt: None
        self._pids = FIRST_PID
        self._unsynced_tombstones: set[str] = set()
        self._unsynced_removals: dict[str, Directory] = {}

    def begin(self, session: str) -> str:
        """Note durably that a session uses this machine's state; who did before, as beats tell."""
        before = "".join(self.sessions)
        self.sessions = (*self.sessions, session[:SHORT])[-SESSIONS:]
        return before

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boots}"

    @property
    def free_bytes(self) -> int:
        return 0 if self.full else FREE_BYTES

    def need_room(self) -> None:
        """Raises OSError on a full disk."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def directory(self, attempt: str) -> Directory:
        """Raises Invalid, and FileNotFoundError when there is none."""
        split_attempt(attempt)
        directory = self.directories.get(attempt)
        if directory is None:
            raise FileNotFoundError(f"There is no directory of {attempt}.")
        return directory

    def truth_of(self, attempt: str) -> Truth:
        return self.truth.setdefault(attempt, Truth())

    def new_process(self) -> files.Identity:
        """A process that has just been forked."""
        self._pids += 1
        return files.Identity(self._pids, int(self.clock.monotonic() * TICKS_PER_S))

    def add(self, attempt: str, order: OrderMessage) -> None:
        """A new directory with a durable order."""
        self.need_room()
        self.truth_of(attempt).accepted += 1
        directory = Directory(attempt, order, self.clock.now().timestamp())
        self.directories.setdefault(attempt, directory).order = order

    def fork_shim(self, directory: Directory) -> SimulatedShim:
        """A shim that holds the attempt from now on, and does what a shim does."""
        shim = SimulatedShim(self, directory)
        directory.holder = shim
        self.shims[directory.attempt] = shim
        return shim

    def shim_ended(self, shim: SimulatedShim) -> None:
        """Its lock ends with it."""
        if self.shims.get(shim.directory.attempt) is shim:
            del self.shims[shim.directory.attempt]
        if shim.directory.holder is shim:
            shim.directory.freed()

    def bury(self, attempt: str, why: Refusal = REVOKED, *, durable: bool) -> None:
        self.tombstones[attempt] = (self.clock.now().timestamp(), why)
        if durable:
            self._unsynced_tombstones.discard(attempt)
        else:
            self._unsynced_tombstones.add(attempt)

    def remove(self, attempt: str) -> None:
        """Delete a directory; a power cut soon after may bring it back."""
        directory = self.directories.pop(attempt, None)
        if directory is not None:
            self.on_remove(attempt)
            self._unsynced_removals[attempt] = directory
            directory.freed()

    def sync(self) -> None:
        """What the kernel does every few seconds by itself."""
        self._unsynced_tombstones.clear()
        self._unsynced_removals.clear()
        for directory in self.directories.values():
            directory.sync()

    # ---- faults

    def kill_shim(self, attempt: str) -> bool:
        """SIGKILL to a shim: its command lives on, unheard."""
        shim = self.shims.get(attempt)
        if shim is None:
            return False
        self.truth_of(attempt).shim_killed = True
        shim.killed()
        return True

    def reboot(self) -> None:
        """A power cut: every process is gone, and so is what was not synced."""
        for attempt in list(self.shims):
            self.kill_shim(attempt)
        for attempt in self._unsynced_tombstones:
            self.tombstones.pop(attempt, None)
        for attempt, directory in self._unsynced_removals.items():
            self.directories.setdefault(attempt, directory)
        self._unsynced_tombstones.clear()
        self._unsynced_removals.clear()
        for directory in self.directories.values():
            directory.holder = None
            directory.watchers.clear()
            directory.waiting.clear()
            for name, data in directory.output.items():
                del data[directory.synced[name] :]
        self.boots += 1
