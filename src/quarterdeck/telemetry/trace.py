"""Named events of traces (telemetry/__init__.py has the rules)."""

from __future__ import annotations

from quarterdeck.telemetry import Detail, Event, Warned


class TraceBegan(Event, frozen=True, kw_only=True):
    trace: str
    name: str
    kept: bool


class TraceEnded(Event, frozen=True, kw_only=True):
    """The sender of a trace said how its command ended."""

    trace: str
    name: str
    exit_code: int | None


class TraceLost(Warned, frozen=True, kw_only=True):
    """Nothing is heard of the sender of a trace any more."""

    trace: str
    name: str


class TraceBack(Event, frozen=True, kw_only=True):
    """... and it came back."""

    trace: str
    name: str


class TraceTaken(Detail, frozen=True, kw_only=True):
    """A part of a trace is there; `dropped` bytes its sender could not hold."""

    kept: bool
    bytes: int
    dropped: int


class ForeignListening(Event, frozen=True, kw_only=True):
    """Senders of another tool are heard at `where`; `open` when that is beyond this machine."""

    protocol: str
    where: str
    open: bool


class TraceForgotten(Warned, frozen=True, kw_only=True):
    """The restart of the fabric took what the ephemeral traces of a namespace had said."""

    namespace: str
    traces: int


class TracesExpired(Detail, frozen=True, kw_only=True):
    """Ephemeral traces were forgotten since their window is over."""

    traces: int
