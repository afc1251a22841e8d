"""Ends that no shim could write: lost, or stopped before the start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from quarterdeck.agent.journal import Held, Journal
from quarterdeck.agent.shim import files
from quarterdeck.agent.shim.tree import boot_id

NO_OUTPUT = files.StreamEnd(bytes=0, sha256=hashlib.sha256(b"").hexdigest(), dropped=0)


def unstarted(held: Held, now: float) -> files.Exit:
    """The end of an attempt that was stopped before it was started."""
    return files.Exit(
        reason=held.stop.reason if held.stop else "cancelled",
        code=None,
        signal=None,
        error="Stopped before it was started.",
        started_at=now,
        ended_at=now,
        streams=dict.fromkeys(files.STREAMS, NO_OUTPUT),
        survivors=0,
        kill_failed=False,
    )


def lost(
    held: Held, now: float, streams: Mapping[str, files.StreamEnd], *, survivors: int
) -> files.Exit:
    """The end of an attempt whose shim is gone without a word."""
    error = held.broken or "Its shim was killed, so the exit status is unknown."
    if held.started is not None and held.started.boot_id != boot_id():
        error = "The machine was restarted while it ran, so the exit status is unknown."
    return files.Exit(
        reason="lost",
        code=None,
        signal=None,
        error=error,
        started_at=held.started.at if held.started else held.accepted_at,
        ended_at=now,
        streams=streams,
        survivors=survivors,
        kill_failed=False,
    )


def stream_ends(journal: Journal, attempt: str) -> dict[str, files.StreamEnd]:
    """Length and hash of what the files hold. Blocking: call it in a thread."""
    ends = {}
    for stream in files.STREAMS:
        digest = hashlib.sha256()
        size = 0
        path = journal.directory(attempt) / stream
        if path.exists():
            with path.open("rb") as file:
                while data := file.read(1 << 20):
                    digest.update(data)
                    size += len(data)
        ends[stream] = files.StreamEnd(bytes=size, sha256=digest.hexdigest(), dropped=0)
    return ends
