"""The journal of a node: one directory per attempt, and tombstones of what must never start again.

The directory is the record (attempt.md); this module reads it into `Held`, and turns that into the
snapshot that travels. A revision is the number of facts in the directory, so it needs no counter:
the order, `started`, each stop, `overdue`, and the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from quarterdeck.agent.shim import files
from quarterdeck.core.ids import split_attempt
from quarterdeck.core.model import Phase, Reason
from quarterdeck.errors import Invalid
from quarterdeck.wire.run import AttemptSnapshot, OrderMessage, StreamEndMessage


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory of one attempt says. `broken` is set when a file can't be read."""

    attempt: str
    accepted_at: float
    started: files.Started | None = None
    stop: files.Stop | None = None
    overdue: bool = False
    end: files.Exit | None = None
    broken: str | None = None
    facts: int = 1

    @property
    def revision(self) -> int:
        """How many facts there are, readable or not: it must never go back."""
        return self.facts + (max(self.stop.count - 1, 0) if self.stop else 0)

    @property
    def phase(self) -> Phase:
        if self.end is not None:
            return Phase.ENDED
        if self.stop is not None or self.overdue:
            return Phase.STOPPING
        return Phase.ACCEPTED if self.started is None else Phase.RUNNING


class Journal:
    """Everything under `<state>/attempts` and `<state>/tombstones`."""

    def __init__(self, state: Path) -> None:
        self._attempts = state / "attempts"
        self._tombstones = state / "tombstones"
        self._trash = state / "trash"
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

    def accept(
        self, attempt: str, run: str, order: OrderMessage, environ: Mapping[str, str]
    ) -> None:
        """Write the order durably. Raises OSError: then nothing was accepted."""
        directory = self.directory(attempt)
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            files.write_json(
                directory / "order", files.order_json(_shim_order(attempt, run, order, environ))
            )
            files.sync_folder(os.fspath(self._attempts))
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
        facts = 1 + len(present & {"started", "stop", "overdue", "exit.json"})
        held = Held(attempt=attempt, accepted_at=accepted_at, facts=facts)
        for name, read in (
            ("started", files.read_started),
            ("stop", files.read_stop),
            ("end", files.read_exit),
        ):
            try:
                held = msgspec.structs.replace(held, **{name: read(directory)})
            except (ValueError, OSError) as error:
                held = msgspec.structs.replace(held, broken=str(error))
        return msgspec.structs.replace(held, overdue="overdue" in present)

    def leashed(self, attempt: str) -> bool:
        """Whether the attempt ends when its node hears no server for long (`lost_after`)."""
        try:
            order = files.read_order(self.directory(attempt))
        except (OSError, ValueError):
            return False
        return order is not None and order.lost_after_s > 0

    def lock(self, attempt: str) -> int | None:
        """Take the attempt's lock; its descriptor, or None while a shim holds it."""
        fd = os.open(self.directory(attempt) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def ask_stop(self, attempt: str, stop: files.Stop) -> None:
        """Record a stop; the shim acts on it when it is told, or when it starts."""
        files.write_json(self.directory(attempt) / "stop", files.stop_json(stop))

    def end(self, attempt: str, end: files.Exit) -> None:
        """Record an end that no shim could: lost, or cancelled before the start."""
        files.write_json(self.directory(attempt) / "exit.json", files.exit_json(end))

    def release(self, attempt: str) -> None:
        """Delete an ended attempt; its tombstone keeps a stray order from starting it again."""
        self.bury(attempt)
        directory = self.directory(attempt)
        with contextlib.suppress(FileNotFoundError):
            directory.rename(self._trash / attempt)
        shutil.rmtree(self._trash / attempt, ignore_errors=True)

    def bury(self, attempt: str, *, durable: bool = False) -> None:
        """Set a tombstone."""
        split_attempt(attempt)
        files_flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(self._tombstones / attempt, files_flags, 0o600))
        if durable:
            files.sync_folder(os.fspath(self._tombstones))

    def buried(self, attempt: str) -> bool:
        return (self._tombstones / attempt).exists()

    def prune(self, before: float) -> int:
        """Remove tombstones set before a unix time; how many."""
        old = [t for t in self._tombstones.iterdir() if t.stat().st_mtime < before]
        for tombstone in old:
            tombstone.unlink(missing_ok=True)
        return len(old)

    def acked(self, attempt: str) -> dict[str, int]:
        """The offsets up to which the fabric has taken output; zeros when not known."""
        try:
            data = (self.directory(attempt) / "acked").read_bytes()
            return msgspec.json.decode(data, type=dict[str, int])
        except (OSError, msgspec.DecodeError):
            return {}

    def save_acked(self, attempt: str, offsets: dict[str, int]) -> None:
        """A hint only: losing it means sending some output twice. Errors are no harm."""
        path = self.directory(attempt) / "acked"
        with contextlib.suppress(OSError):
            draft = path.with_suffix(".tmp")
            draft.write_bytes(msgspec.json.encode(offsets))
            draft.rename(path)


def snapshot(held: Held, *, cached: bool = False) -> AttemptSnapshot:
    """What travels of an attempt."""
    end = held.end
    return AttemptSnapshot(
        attempt=held.attempt,
        revision=held.revision,
        phase=held.phase.value,
        accepted_at=held.accepted_at,
        started_at=held.started.at if held.started else None,
        ended_at=end.ended_at if end else None,
        reason=_reason(end),
        exit_code=end.code if end else None,
        signal=end.signal if end else None,
        error=(end.error if end else None) or held.broken,
        stdout=_stream_end(end, "stdout"),
        stderr=_stream_end(end, "stderr"),
        survivors=end.survivors if end else 0,
        kill_failed=end.kill_failed if end else False,
        cached=cached,
        stops=held.stop.count if held.stop else 0,
    )


def _reason(end: files.Exit | None) -> str | None:
    if end is None or end.reason is None:
        return None
    return end.reason if end.reason in set(Reason) else Reason.LOST.value


def _stream_end(end: files.Exit | None, stream: str) -> StreamEndMessage:
    if end is None:
        return StreamEndMessage()
    part = end.streams[stream]
    return StreamEndMessage(bytes=part.bytes, sha256=part.sha256, dropped=part.dropped)


def _shim_order(
    attempt: str, run: str, order: OrderMessage, environ: Mapping[str, str]
) -> files.Order:
    return files.Order(
        attempt=attempt,
        run=run,
        argv=order.argv or None,
        script=None if order.argv else order.script,
        args=order.args,
        environ=environ,
        cwd=order.cwd,
        stdin=order.stdin or None,
        timeout_s=order.timeout_s,
        grace_s=order.grace_s,
        max_output=order.max_output,
        leftovers=order.leftovers,
        lost_after_s=order.lost_after_s,
    )
