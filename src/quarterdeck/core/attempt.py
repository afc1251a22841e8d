"""The machine of one attempt as the server sees it: what is wanted against what was reported.

Rules (docs/ATTEMPT.md):
1. A snapshot with a higher revision replaces the last one, and an end replaces anything that is no
   end; others change nothing.
2. An end is shown only when a log of the reported length can be read (`cached`, also when the node
   says so only in a repeat, or sealed).
3. What was never offered to the node may be ended by the server alone; what was offered needs the
   node's word (a snapshot, or a refusal, which a node gives only for what it never accepted).
4. Signals are numbered; the node takes each number once. What has ended gets none.
5. A `kill_failed` attempt stays that, but its record says when the rest has ended after all.
6. After the log is sealed the node is told to forget; after its answer nothing is wanted any more.
7. An attempt is called off only while nobody knows that it has begun; a node that had begun it says
   so, and it goes on.
8. A node that was removed is asked nothing and believed nothing: what may run there is lost, and
   what the servers have of its output is its log.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

import msgspec

from quarterdeck.core.model import Attempt, Reason, Record, SignalOrder, Snapshot, Wanted
from quarterdeck.core.states import ATTEMPT_MOVES, AttemptState, Outcome, Phase


class Reported(Record, frozen=True, kw_only=True):
    """A snapshot arrived from the node."""

    snapshot: Snapshot


class TurnedDown(Record, frozen=True, kw_only=True):
    """The node says that it never accepted the attempt and never will (a tombstone stays)."""

    reason: Reason
    error: str


class StopAsked(Record, frozen=True, kw_only=True):
    """A person or a limit wants the attempt to stop."""

    signal: int


class SignalAsked(Record, frozen=True, kw_only=True):
    """A person wants one signal sent; `key` names the request, whose repeat changes nothing."""

    signal: int
    tree: bool
    key: str


class CalledOff(Record, frozen=True, kw_only=True):
    """The run starts nothing any more: an attempt that has not begun is not to begin."""


class OfferExpired(Record, frozen=True, kw_only=True):
    """The time in which the node could have come back is over; `error` when it was there."""

    error: str = "The node did not come back in time."


class Vanished(Record, frozen=True, kw_only=True):
    """The node answered that it holds nothing of an attempt it had reported before.

    `error` serves when the end is known and only its output is out of reach.
    """

    error: str = "The node lost the attempt's directory before its output was archived."


class Sealed(Record, frozen=True, kw_only=True):
    """The log is archived and committed."""


class Dropped(Record, frozen=True, kw_only=True):
    """The node deleted its directory."""


class NodeRemoved(Record, frozen=True, kw_only=True):
    """The node was removed from the fleet: its word no longer counts."""


Event = (
    Reported
    | TurnedDown
    | StopAsked
    | SignalAsked
    | CalledOff
    | OfferExpired
    | Vanished
    | Sealed
    | Dropped
    | NodeRemoved
)

PHASE_STATE = {
    Phase.ACCEPTED: AttemptState.STARTING,
    Phase.RUNNING: AttemptState.RUNNING,
    Phase.STOPPING: AttemptState.STOPPING,
}


NOT_SENT = "The node was removed from the fleet before the order was sent to it."
END_UNKNOWN = "The node was removed from the fleet, so the end of this attempt is unknown."
LOG_LEFT = "The node was removed from the fleet before its output was archived."


def step(attempt: Attempt, event: Event, now: datetime) -> Attempt:
    """The attempt after the event; the same object when nothing changes."""
    match event:
        case Reported(snapshot=snapshot):
            return _reported(attempt, snapshot)
        case TurnedDown(reason=reason, error=error):
            return _ended_unstarted(attempt, reason, error, now)
        case StopAsked(signal=signal):
            return _stop_asked(attempt, signal, now)
        case SignalAsked():
            return _signal_asked(attempt, event, now)
        case CalledOff():
            return _called_off(attempt, now)
        case OfferExpired(error=error):
            if attempt.offered:
                return attempt
            return _ended_unstarted(attempt, Reason.OFFLINE, error, now)
        case Vanished(error=error):
            return _vanished(attempt, error, now)
        case Sealed():
            return _sealed(attempt)
        case Dropped():
            if not attempt.sealed or attempt.released:
                return attempt
            return msgspec.structs.replace(attempt, released=True)
        case NodeRemoved():
            return _node_removed(attempt, now)
        case _ as never:
            assert_never(never)


def outcome(snapshot: Snapshot) -> Outcome:
    """What an ended attempt came to. The exit code itself is never rewritten."""
    if snapshot.kill_failed:
        return Outcome.KILL_FAILED
    match snapshot.reason:
        case Reason.TIMEOUT:
            return Outcome.TIMED_OUT
        case Reason.CANCELLED:
            return Outcome.CANCELLED
        case Reason.LOST | Reason.LOST_AFTER | Reason.FORGOTTEN | Reason.NODE_REMOVED:
            return Outcome.LOST
        case Reason.START_TIMEOUT:
            return Outcome.START_TIMEOUT
        case Reason.START_ERROR | Reason.REFUSED | Reason.OFFLINE:
            return Outcome.FAILED
        case None:
            return Outcome.SUCCEEDED if snapshot.exit_code == 0 else Outcome.FAILED
        case _ as never:
            assert_never(never)


def log_length(snapshot: Snapshot) -> int:
    """Bytes of both streams that a reader of the ended attempt must be able to get."""
    return snapshot.stdout.bytes + snapshot.stderr.bytes


def _move(attempt: Attempt, state: AttemptState) -> AttemptState:
    return state if state in ATTEMPT_MOVES[attempt.state] else attempt.state


def _reported(attempt: Attempt, snapshot: Snapshot) -> Attempt:
    known = attempt.snapshot
    ended = snapshot.phase is Phase.ENDED
    if known is not None and known.phase is Phase.ENDED:
        if known.kill_failed and known.gone_at is None and snapshot.gone_at is not None:
            # what could not be killed has ended after all; the outcome stays what it was
            told = msgspec.structs.replace(
                known, gone_at=snapshot.gone_at, revision=snapshot.revision
            )
            return msgspec.structs.replace(attempt, snapshot=told)
        if attempt.state is AttemptState.ENDED or not (ended and snapshot.cached):
            return attempt
        # the end stands as it was told; only its output can be read by now
        return _shown_ended(
            msgspec.structs.replace(attempt, snapshot=msgspec.structs.replace(known, cached=True))
        )
    # an end is the last word also when the directory lost a fact and counts fewer of them
    if known is not None and snapshot.revision <= known.revision and not ended:
        return attempt
    # a call that came too late called nothing off
    wanted = Wanted.RUN if attempt.wanted is Wanted.REVOKE else attempt.wanted
    fresh = msgspec.structs.replace(attempt, snapshot=snapshot, offered=True, wanted=wanted)
    if not ended:
        state = _move(attempt, PHASE_STATE[snapshot.phase])
        return msgspec.structs.replace(fresh, state=state)
    if snapshot.cached or log_length(snapshot) == 0:
        return _shown_ended(fresh)
    return fresh


def _shown_ended(attempt: Attempt) -> Attempt:
    assert attempt.snapshot is not None
    return msgspec.structs.replace(
        attempt, state=AttemptState.ENDED, outcome=outcome(attempt.snapshot)
    )


def _ended_unstarted(attempt: Attempt, reason: Reason, error: str, now: datetime) -> Attempt:
    if attempt.snapshot is not None:
        return attempt
    cancelled = attempt.wanted in (Wanted.STOP, Wanted.REVOKE)
    final = Snapshot(
        attempt=attempt.id,
        revision=1,
        phase=Phase.ENDED,
        reason=Reason.CANCELLED if cancelled else reason,
        error=error,
        ended_at=now,
        cached=True,
    )
    ended = _shown_ended(msgspec.structs.replace(attempt, snapshot=final))
    return msgspec.structs.replace(ended, sealed=True, released=True, wanted=Wanted.FORGET)


def _stop_asked(attempt: Attempt, signal: int, now: datetime) -> Attempt:
    if attempt.state is AttemptState.ENDED or attempt.wanted is Wanted.FORGET:
        return attempt
    stopped = msgspec.structs.replace(
        attempt, wanted=Wanted.STOP, stops=attempt.stops + 1, stop_signal=signal
    )
    if not attempt.offered:
        return _ended_unstarted(stopped, Reason.CANCELLED, "Cancelled before it was sent.", now)
    return stopped


def takes_signals(attempt: Attempt) -> bool:
    """Whether the command has begun and its end is not known."""
    known = attempt.snapshot
    return known is not None and known.phase is not Phase.ENDED


def _signal_asked(attempt: Attempt, asked: SignalAsked, now: datetime) -> Attempt:
    if not takes_signals(attempt) or any(one.key == asked.key for one in attempt.signals):
        return attempt
    number = len(attempt.signals) + 1
    order = SignalOrder(number=number, signal=asked.signal, tree=asked.tree, key=asked.key, at=now)
    return msgspec.structs.replace(attempt, signals=(*attempt.signals, order))


def _called_off(attempt: Attempt, now: datetime) -> Attempt:
    if attempt.snapshot is not None or attempt.wanted is not Wanted.RUN:
        return attempt
    revoked = msgspec.structs.replace(attempt, wanted=Wanted.REVOKE)
    if not attempt.offered:
        return _ended_unstarted(revoked, Reason.CANCELLED, "Called off before it was sent.", now)
    return revoked


def _vanished(attempt: Attempt, error: str, now: datetime) -> Attempt:
    known = attempt.snapshot
    if known is None or attempt.sealed or attempt.log_gone:
        return attempt
    if known.phase is Phase.ENDED:
        return _without_its_log(attempt, known, error)
    text = "The node no longer has the attempt's directory, so its end is unknown."
    return _lost(attempt, Reason.FORGOTTEN, text, now)


def _node_removed(attempt: Attempt, now: datetime) -> Attempt:
    if attempt.released:
        return attempt
    if attempt.sealed:  # the node was to delete its directory; nobody waits for that any more
        return msgspec.structs.replace(attempt, released=True)
    known = attempt.snapshot
    if known is None and not attempt.offered:
        return _ended_unstarted(attempt, Reason.OFFLINE, NOT_SENT, now)
    if known is None or known.phase is not Phase.ENDED:
        return _lost(attempt, Reason.NODE_REMOVED, END_UNKNOWN, now)
    return attempt if attempt.log_gone else _without_its_log(attempt, known, LOG_LEFT)


def _without_its_log(attempt: Attempt, known: Snapshot, text: str) -> Attempt:
    """The end is known; only output that nobody had read is out of reach."""
    gone = msgspec.structs.replace(attempt, log_gone=True)
    if attempt.state is AttemptState.ENDED:
        return gone
    told = msgspec.structs.replace(known, cached=True, error=known.error or text)
    return _shown_ended(msgspec.structs.replace(gone, snapshot=told))


def _lost(attempt: Attempt, reason: Reason, text: str, now: datetime) -> Attempt:
    """Nobody will ever tell the end; the log is what the servers have of it."""
    known = attempt.snapshot or Snapshot(attempt=attempt.id, revision=0, phase=Phase.ACCEPTED)
    final = msgspec.structs.replace(
        known,
        revision=known.revision + 1,
        phase=Phase.ENDED,
        reason=reason,
        ended_at=now,
        error=text,
        cached=True,
    )
    return _shown_ended(msgspec.structs.replace(attempt, snapshot=final, log_gone=True))


def _sealed(attempt: Attempt) -> Attempt:
    if attempt.snapshot is None or attempt.snapshot.phase is not Phase.ENDED or attempt.sealed:
        return attempt
    return msgspec.structs.replace(_shown_ended(attempt), sealed=True, wanted=Wanted.FORGET)
