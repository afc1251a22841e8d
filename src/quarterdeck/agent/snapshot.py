"""What a node says of an attempt: from its directory to the message that travels."""

from __future__ import annotations

from quarterdeck.agent.held import Held
from quarterdeck.agent.shim import files
from quarterdeck.core.model import Reason
from quarterdeck.wire.run import AttemptSnapshot, StreamEndMessage


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
        overdue=held.alerted,
        stops=held.stop.count if held.stop else 0,
        signals=max((one.number for one in held.signals), default=0),
        signalled=held.signalled,
        gone_at=held.gone_at,
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
