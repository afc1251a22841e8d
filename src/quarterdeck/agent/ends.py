"""Ends that no shim could write: lost, or stopped before the start."""

from __future__ import annotations

import hashlib

from quarterdeck.agent.held import Held, Remains
from quarterdeck.agent.shim import files

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


def start_timeout(held: Held, now: float, start_timeout_s: float, error: str) -> files.Exit:
    """The end of an attempt for which no shim could be had in time."""
    return files.Exit(
        reason="start_timeout",
        code=None,
        signal=None,
        error=f"No process could be started for it within {start_timeout_s:g} s: {error}",
        started_at=held.accepted_at,
        ended_at=now,
        streams=dict.fromkeys(files.STREAMS, NO_OUTPUT),
        survivors=0,
        kill_failed=False,
    )


def lost(held: Held, now: float, remains: Remains) -> files.Exit:
    """The end of an attempt whose shim is gone without a word."""
    error = held.broken or "Its shim was killed, so the exit status is unknown."
    if remains.rebooted:
        error = "The machine was restarted while it ran, so the exit status is unknown."
    return files.Exit(
        reason="lost",
        code=None,
        signal=None,
        error=error,
        started_at=held.started.at if held.started else held.accepted_at,
        ended_at=now,
        streams=remains.streams,
        survivors=remains.survivors,
        kill_failed=False,
    )
