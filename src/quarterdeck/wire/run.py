"""Messages about attempts: orders to a node, its answers, its facts and its heartbeats.

Times are seconds since 1970 (float, UTC). Conversions from and to core records are named functions
at the end of the module, so that neither family dictates the other.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from quarterdeck.core.model import (
    Facts,
    Load,
    Order,
    Reason,
    SignalOrder,
    Snapshot,
    StreamEnd,
    Terminal,
)
from quarterdeck.core.states import Phase
from quarterdeck.wire.agentless import AgentlessKept, AgentlessReport, KeepAgentless
from quarterdeck.wire.codec import WireMessage

BEAT_LIMIT = 500


class TerminalMessage(WireMessage, frozen=True, kw_only=True):
    """The terminal a command gets."""

    rows: int = 24
    columns: int = 80
    term: str = "xterm-256color"


class OrderMessage(WireMessage, frozen=True, kw_only=True):
    """What a node is to execute."""

    argv: tuple[str, ...] = ()
    script: bytes = b""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    stdin: bytes = b""
    timeout_s: float = 0.0
    grace_s: float = 10.0
    max_output: int = 0
    leftovers: str = "keep"
    lost_after_s: float = 0.0
    user: str | None = None
    pty: TerminalMessage | None = None
    umask: int | None = None
    start_timeout_s: float = 60.0
    on_timeout: str = "stop"


class StartAttempt(WireMessage, frozen=True, kw_only=True, tag="start"):
    """Accept (fsynced) and start an attempt; a repeat is answered with its present state."""

    attempt: str
    order: OrderMessage


class StopAttempt(WireMessage, frozen=True, kw_only=True, tag="stop"):
    """Stop an attempt: `signal` to its tree, KILL after `grace_s`. `count` numbers the stops."""

    attempt: str
    count: int
    signal: int
    grace_s: float | None = None


class SignalItem(WireMessage, frozen=True, kw_only=True):
    """One of the numbered signals of an attempt."""

    number: int
    signal: int
    tree: bool = False


class SignalAttempt(WireMessage, frozen=True, kw_only=True, tag="signal"):
    """Send signals to a running attempt, each once: a number that is known changes nothing."""

    attempt: str
    signals: tuple[SignalItem, ...]


class RevokeAttempt(WireMessage, frozen=True, kw_only=True, tag="revoke"):
    """Never accept this attempt. Answered with a snapshot if it was accepted before."""

    attempt: str


class ReleaseAttempt(WireMessage, frozen=True, kw_only=True, tag="release"):
    """The log is archived: delete the directory of an ended attempt."""

    attempt: str


class ReportAttempt(WireMessage, frozen=True, kw_only=True, tag="report"):
    """Say what the journal holds of an attempt."""

    attempt: str


class ReadOutput(WireMessage, frozen=True, kw_only=True, tag="read"):
    """Give up to `length` bytes of one stream (`stdout`, `stderr`, `times`) from `offset`."""

    attempt: str
    stream: str
    offset: int
    length: int


OrderItem = (
    StartAttempt
    | StopAttempt
    | SignalAttempt
    | RevokeAttempt
    | ReleaseAttempt
    | ReportAttempt
    | ReadOutput
    | KeepAgentless
)


class Orders(WireMessage, frozen=True, kw_only=True):
    """The body of an envelope: done in order, each answered."""

    items: tuple[OrderItem, ...]


class StreamEndMessage(WireMessage, frozen=True, kw_only=True):
    """Length and hash of one whole stream."""

    bytes: int = 0
    sha256: str = ""
    dropped: int = 0


class AttemptSnapshot(WireMessage, frozen=True, kw_only=True, tag="snapshot"):
    """Everything the node knows of an attempt. `session` is the start of the agent that tells a
    fact (core/liveness.py); empty in answers, which name it themselves, and of older agents."""

    attempt: str
    revision: int
    phase: str
    accepted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    stdout: StreamEndMessage = StreamEndMessage()
    stderr: StreamEndMessage = StreamEndMessage()
    survivors: int = 0
    kill_failed: bool = False
    cached: bool = False
    stops: int = 0
    overdue: bool = False
    session: str = ""
    signals: int = 0
    signalled: int = 0
    gone_at: float | None = None


class AttemptRefused(WireMessage, frozen=True, kw_only=True, tag="refused"):
    """Never accepted and never will be. `code` is a `RefusalCode`, or the word of a newer agent."""

    attempt: str
    code: str
    text: str


class AttemptUnknown(WireMessage, frozen=True, kw_only=True, tag="unknown"):
    """The journal holds nothing of it."""

    attempt: str


class AttemptReleased(WireMessage, frozen=True, kw_only=True, tag="released"):
    """The directory is gone."""

    attempt: str


class AttemptBusy(WireMessage, frozen=True, kw_only=True, tag="busy"):
    """Not done now and not refused: the server asks again. `text` says why."""

    attempt: str
    text: str


class OutputBytes(WireMessage, frozen=True, kw_only=True, tag="bytes"):
    """Bytes of one stream; `size` is its present length, `final` that it will not grow."""

    attempt: str
    stream: str
    offset: int
    data: bytes
    size: int
    final: bool


AnswerItem = (
    AttemptSnapshot
    | AttemptRefused
    | AttemptUnknown
    | AttemptReleased
    | AttemptBusy
    | OutputBytes
    | AgentlessKept
)


class Answers(WireMessage, frozen=True, kw_only=True):
    """One answer for each item of `Orders`, in order."""

    node: str
    session: str
    items: tuple[AnswerItem, ...] = ()


class FactsMessage(WireMessage, frozen=True, kw_only=True):
    """What a node is. `place` (`user@host:port`) and `via` are set where another node reaches it
    over SSH."""

    os: str = ""
    kernel: str = ""
    arch: str = ""
    cpus: int = 0
    boot_id: str = ""
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    version: str = ""
    place: str = ""
    via: str = ""
    slots: int = 0


class LoadMessage(WireMessage, frozen=True, kw_only=True):
    """Figures of a node at the time of the beat."""

    cpu_percent: float = 0.0
    load1: float = 0.0
    memory_total: int = 0
    memory_used: int = 0
    disk_total: int = 0
    disk_free: int = 0
    attempts: int = 0


class Heartbeat(WireMessage, frozen=True, kw_only=True):
    """Sent on every connect and then every 5 s. `attempts` lists id and revision of up to
    `BEAT_LIMIT` unreleased attempts; `attempt_count` is how many there are, and of more each has
    its turn for two beats. `before` names the sessions that used the state directory earlier
    (core/liveness.py)."""

    node: str
    session: str
    number: int
    name: str
    at: float
    facts: FactsMessage
    load: LoadMessage
    labels: dict[str, str] = {}
    full: str = ""
    attempts: tuple[tuple[str, int], ...] = ()
    attempt_count: int = 0
    before: str = ""
    agentless: AgentlessReport | None = None


class BeatNow(WireMessage, frozen=True, kw_only=True):
    """A server that has just connected asks for a heartbeat at a random moment `within_s`.

    `quarantined` asks for nothing: it says that two agents were heard with this identity.
    """

    within_s: float = 0.0
    quarantined: bool = False


def order_message(order: Order) -> OrderMessage:
    """Core to wire."""
    return OrderMessage(
        argv=order.argv,
        script=order.script,
        args=order.args,
        env=dict(order.env),
        cwd=order.cwd,
        stdin=order.stdin,
        timeout_s=order.timeout_s,
        grace_s=order.grace_s,
        max_output=order.max_output,
        leftovers=order.leftovers,
        lost_after_s=order.lost_after_s,
        user=order.user,
        pty=None if order.pty is None else _terminal_message(order.pty),
        umask=order.umask,
        start_timeout_s=order.start_timeout_s,
        on_timeout=order.on_timeout,
    )


def _terminal_message(terminal: Terminal) -> TerminalMessage:
    return TerminalMessage(rows=terminal.rows, columns=terminal.columns, term=terminal.term)


def signal_items(signals: tuple[SignalOrder, ...]) -> tuple[SignalItem, ...]:
    """Core to wire."""
    return tuple(SignalItem(number=s.number, signal=s.signal, tree=s.tree) for s in signals)


def snapshot_record(message: AttemptSnapshot) -> Snapshot:
    """Wire to core. Raises ValueError for what this version does not know or no record can hold."""
    _check_numbers(message)
    return Snapshot(
        attempt=message.attempt,
        revision=message.revision,
        phase=Phase(message.phase),
        accepted_at=_time(message.accepted_at),
        started_at=_time(message.started_at),
        ended_at=_time(message.ended_at),
        reason=Reason(message.reason) if message.reason else None,
        exit_code=message.exit_code,
        signal=message.signal,
        error=message.error,
        stdout=_end(message.stdout),
        stderr=_end(message.stderr),
        survivors=message.survivors,
        kill_failed=message.kill_failed,
        cached=message.cached,
        stops=message.stops,
        overdue=message.overdue,
        signals=message.signals,
        signalled=message.signalled,
        gone_at=_time(message.gone_at),
    )


def facts_record(message: FactsMessage) -> Facts:
    """Wire to core."""
    return msgspec.convert(message, Facts, from_attributes=True)


def load_record(message: LoadMessage) -> Load:
    """Wire to core."""
    return msgspec.convert(message, Load, from_attributes=True)


def _end(message: StreamEndMessage) -> StreamEnd:
    return StreamEnd(bytes=message.bytes, sha256=message.sha256, dropped=message.dropped)


def _time(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds} is not a time") from error


def _check_numbers(message: AttemptSnapshot) -> None:
    for number in (
        message.revision,
        message.stops,
        message.signals,
        message.signalled,
        message.exit_code or 0,
        message.signal or 0,
        message.survivors,
    ):
        if not -(2**31) <= number < 2**31:
            raise ValueError(f"{number} is out of bounds")
    for end in (message.stdout, message.stderr):
        if not (0 <= end.bytes < 2**62 and 0 <= end.dropped < 2**62):
            raise ValueError("the length of a stream is out of bounds")
