"""The journal of a node: one directory per attempt, and tombstones of what must never start again.

The directory is the record (docs/ATTEMPT.md); this module reads it into `Held`. A revision is the
number of facts in the directory, so it needs no counter: the order, `started`, each stop and each
signal (asked for, sent), `overdue` or `alerted`, the end, and that what could not be killed has
gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from quarterdeck.agent.held import REVOKED, Held, Refusal, Request, Terms
from quarterdeck.agent.shim import disk, files
from quarterdeck.core.ids import split_attempt
from quarterdeck.errors import Invalid
from quarterdeck.service import lock_directory

T = TypeVar("T")

HASH_BYTES = 1 << 20
FACTS = {"started", "stop", "signals", "signalled", "overdue", "alerted", "exit.json", "gone"}


class Journal:
    """Everything under `<state>/attempts` and `<state>/tombstones`."""

    def __init__(self, state: Path) -> None:
        self._attempts = state / "attempts"
        self._tombstones = state / "tombstones"
        self._trash = state / "trash"

    def open(self) -> None:
        """Make the directories. Raises OSError."""
        for directory in (self._attempts, self._tombstones, self._trash):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def directory(self, attempt: str) -> Path:
        """Where an attempt lies. Raises Invalid for what is not an attempt id (no path tricks)."""
        split_attempt(attempt)
        return self._attempts / attempt

    def scan(self) -> list[str]:
        """Attempts that were accepted; what an interrupted accept or release left is removed."""
        for leftover in self._trash.iterdir():
            shutil.rmtree(leftover, ignore_errors=True)
        found = []
        for directory in sorted(self._attempts.iterdir()):
            try:
                split_attempt(directory.name)
            except Invalid:
                continue
            if any((directory / name).exists() for name in ("order", "started", "exit.json")):
                found.append(directory.name)
            else:
                shutil.rmtree(directory, ignore_errors=True)
        return found

    def accept(self, attempt: str, order: Mapping[str, Any]) -> None:
        """Write a `files.order_json` durably. Raises OSError: then nothing was accepted."""
        directory = self.directory(attempt)
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            disk.write_json(directory / "order", order, also=[self._attempts])
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def look(self, attempt: str) -> Held | None:
        """The present state, None when there is no such attempt. Never raises for damage."""
        directory = self.directory(attempt)
        try:
            present = {entry.name for entry in directory.iterdir()}
            accepted_at = directory.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not present & {"order", "started", "exit.json"}:
            return None
        if "order" in present:
            accepted_at = (directory / "order").stat().st_mtime
        facts = 1 + len(present & FACTS)
        broken: str | None = None

        def read(name: str, reader: Callable[[Path], T]) -> T | None:
            nonlocal broken
            if name not in present:  # what came since then is not among the facts either
                return None
            try:
                return reader(directory)
            except (ValueError, OSError) as error:
                broken = str(error)
                return None

        started = read("started", files.read_started)
        stop = read("stop", files.read_stop)
        end = read("exit.json", files.read_exit)
        signals = read("signals", files.read_signals)
        signalled = read("signalled", files.read_signalled)
        gone_at = read("gone", files.read_gone)
        return Held(
            attempt=attempt,
            accepted_at=accepted_at,
            started=started,
            stop=stop,
            overdue="overdue" in present,
            alerted="alerted" in present,
            end=end,
            signals=signals or (),
            signalled=signalled or 0,
            gone_at=gone_at,
            broken=broken,
            facts=facts,
        )

    def terms(self, attempt: str) -> Terms:
        """What the order says about time."""
        try:
            order = files.read_order(self.directory(attempt))
        except (OSError, ValueError):
            order = None
        if order is None:
            return Terms()
        return Terms(leashed=order.lost_after_s > 0, start_timeout_s=order.start_timeout_s)

    def lock(self, attempt: str) -> int | None:
        """Take the attempt's lock; its descriptor, or None while a shim holds it."""
        return lock_directory(self.directory(attempt))

    def ask(self, attempt: str, request: Request) -> None:
        """Record a request; the shim acts on it when it is told, or when it starts."""
        if isinstance(request, files.Stop):
            disk.write_json(self.directory(attempt) / "stop", files.stop_json(request))
        else:
            disk.write_json(self.directory(attempt) / "signals", files.signals_json(request))

    def end(self, attempt: str, end: files.Exit) -> None:
        """Record an end that no shim could: lost, or cancelled before the start."""
        disk.write_json(self.directory(attempt) / "exit.json", files.exit_json(end))

    def release(self, attempt: str) -> None:
        """Delete an ended attempt; its tombstone keeps a stray order from starting it again."""
        self.bury(attempt)
        directory = self.directory(attempt)
        with contextlib.suppress(FileNotFoundError):
            directory.rename(self._trash / attempt)
        shutil.rmtree(self._trash / attempt, ignore_errors=True)

    def bury(self, attempt: str, why: Refusal = REVOKED, *, durable: bool = False) -> None:
        """Set a tombstone, without words when the disk takes only an empty file."""
        split_attempt(attempt)
        if why != REVOKED:
            with contextlib.suppress(OSError):
                disk.write_json(self._tombstones / attempt, dataclasses.asdict(why))
                return
        files_flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(self._tombstones / attempt, files_flags, 0o600))
        if durable:
            disk.sync_folder(self._tombstones)

    def buried(self, attempt: str) -> Refusal | None:
        """Why it must never start here; None without a tombstone. Damaged words say nothing."""
        try:
            words = json.loads((self._tombstones / attempt).read_bytes())
            return Refusal.read(words)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            return REVOKED

    def tombstones(self) -> dict[str, Refusal]:
        """All that must never start here."""
        found = {}
        for path in self._tombstones.iterdir():
            with contextlib.suppress(Invalid):
                split_attempt(path.name)
                found[path.name] = self.buried(path.name) or REVOKED
        return found

    def prune(self, before: float) -> int:
        """Remove tombstones set before a unix time; how many."""
        old = [t for t in self._tombstones.iterdir() if t.stat().st_mtime < before]
        for tombstone in old:
            tombstone.unlink(missing_ok=True)
        return len(old)

    def stream_ends(self, attempt: str) -> dict[str, files.StreamEnd]:
        """Length and hash of what the files hold, and hold after a power cut from now on: an end
        must not claim what is not on the disk. Blocking: call it in a thread."""
        ends = {}
        for stream in files.STREAMS:
            digest = hashlib.sha256()
            size = 0
            path = self.directory(attempt) / stream
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    while data := file.read(HASH_BYTES):
                        digest.update(data)
                        size += len(data)
            ends[stream] = files.StreamEnd(bytes=size, sha256=digest.hexdigest(), dropped=0)
        return ends

    def acked(self, attempt: str) -> dict[str, int]:
        """The offsets up to which the fabric has taken output, as far as known."""
        try:
            kept = json.loads((self.directory(attempt) / "acked").read_bytes())
            return {name: int(kept[name]) for name in files.STREAMS}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def save_acked(self, attempt: str, offsets: dict[str, int]) -> None:
        """A hint only: losing it means sending some output twice. Errors are no harm."""
        path = self.directory(attempt) / "acked"
        with contextlib.suppress(OSError):
            draft = path.with_suffix(".tmp")
            draft.write_bytes(json.dumps(offsets).encode())
            draft.rename(path)
