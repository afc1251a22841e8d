"""Comparing what is wanted with what a node reports, and what to send so that they agree.

`orders_for` turns rows into orders. `compare` looks at one heartbeat: a difference is acted on
only when two beats of one session show it, and then the node's journal is asked first, because a
beat may simply have overtaken a fact that is still on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from quarterdeck.core.model import Attempt, Record, SignalOrder, Wanted
from quarterdeck.core.states import Phase


class Start(Record, frozen=True, kw_only=True):
    """Send the order of an attempt the node has not answered for."""

    attempt: str


class Stop(Record, frozen=True, kw_only=True):
    """Send the newest stop of an attempt."""

    attempt: str
    count: int
    signal: int


class Signal(Record, frozen=True, kw_only=True):
    """Send the signals that the node has not recorded yet."""

    attempt: str
    signals: tuple[SignalOrder, ...]


class Revoke(Record, frozen=True, kw_only=True):
    """Ask the node never to accept an attempt it has not answered for."""

    attempt: str


class Release(Record, frozen=True, kw_only=True):
    """Tell the node to delete an attempt whose log is archived."""

    attempt: str


Command = Start | Stop | Signal | Revoke | Release


def orders_for(attempts: Iterable[Attempt], now: datetime) -> list[Command]:
    """What differs between the rows of one node and their last snapshots, oldest first."""
    return [order for attempt in attempts for order in _orders_for(attempt, now)]


def _orders_for(attempt: Attempt, now: datetime) -> list[Command]:
    found = (_signals_for(attempt), _order_for(attempt, now))
    return [order for order in found if order is not None]


def _signals_for(attempt: Attempt) -> Signal | None:
    known = attempt.snapshot
    if known is None or known.phase is Phase.ENDED or known.signals >= len(attempt.signals):
        return None
    unknown = tuple(one for one in attempt.signals if one.number > known.signals)
    return Signal(attempt=attempt.id, signals=unknown)


def _order_for(attempt: Attempt, now: datetime) -> Command | None:
    if attempt.released:
        return None
    ended = attempt.snapshot is not None and attempt.snapshot.phase is Phase.ENDED
    match attempt.wanted:
        case Wanted.RUN:
            if attempt.snapshot is not None:
                return None
            if attempt.not_before is not None and attempt.not_before > now:
                return None
            return Start(attempt=attempt.id)
        case Wanted.REVOKE:
            return Revoke(attempt=attempt.id) if attempt.snapshot is None else None
        case Wanted.STOP:
            if attempt.snapshot is None:
                return Revoke(attempt=attempt.id)
            if ended or attempt.snapshot.stops >= attempt.stops:
                return None
            return Stop(attempt=attempt.id, count=attempt.stops, signal=attempt.stop_signal)
        case Wanted.FORGET:
            return Release(attempt=attempt.id) if ended else None


class Watch(Record, frozen=True, kw_only=True):
    """What the last beat of a node left open: attempts that differed or that nobody ordered."""

    session: str = ""
    suspects: frozenset[str] = frozenset()


class Beat(Record, frozen=True, kw_only=True):
    """The part of a heartbeat that reconcile looks at."""

    session: str
    revisions: Mapping[str, int]
    complete: bool


class Verdict(Record, frozen=True, kw_only=True):
    """What a beat leads to."""

    watch: Watch
    ask: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def compare(watch: Watch, beat: Beat, recorded: Mapping[str, Attempt]) -> Verdict:
    """Compare a beat with the unreleased attempts recorded for the node.

    `ask` are attempts that differed in the beat before, too: the node's journal is to be asked.
    `unknown` are attempts the node lists twice and nobody ordered: shown, never adopted.
    """
    differing = {attempt.id for attempt in recorded.values() if _differs(attempt, beat)}
    strangers = set(beat.revisions) - set(recorded)
    known = watch.suspects if watch.session == beat.session else frozenset()
    return Verdict(
        watch=Watch(session=beat.session, suspects=frozenset(differing | strangers)),
        ask=tuple(sorted(differing & known)),
        unknown=tuple(sorted(strangers & known)),
    )


def _differs(attempt: Attempt, beat: Beat) -> bool:
    if attempt.snapshot is None:
        return attempt.id in beat.revisions
    if attempt.id not in beat.revisions:
        return beat.complete and not (attempt.sealed or attempt.log_gone)
    return beat.revisions[attempt.id] != attempt.snapshot.revision
