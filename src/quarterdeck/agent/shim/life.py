"""The life of one attempt as data: what to do about time, requests and ends. No IO, no clock.

            Opened            main ended
    Waiting ──────► Running ───────────────► Draining ──► Ended
       │   request/   │ timeout, stop,          │ ▲
       │   stop       ▼ lost_after              │ │ tree empty, or given up
       │           Stopping ── main ended ──────┤ │
       │              │ grace over, signal 9    │ │
       └──────────────┴────────► Killing ◄──────┘─┘
                                        survivors that may not stay

Rules:
- The end of the main process ends the attempt: after it, reasons are no longer set.
- What the main process wrote before its end is always read (`OWED`), however long the disk takes;
  only what survivors write is cut off when the drain is over.
- What was not executed by `start_by` never is: a working directory may hang for ever.
- A request that came before the gate opened means that nothing of the order was run.
- Killing is repeated with growing pauses until the tree is empty, at most `kill_s`.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, replace
from typing import assert_never

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2


class Pipes(enum.Enum):
    """What is still to come from the output pipes."""

    OWED = "bytes of the main process are still unread or unwritten"
    OPEN = "all is written, some survivor could write more"
    CLOSED = "all is written, nobody can write more"


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one attempt; `timeout_s` 0 means none. `only_alert`: after it all goes on."""

    timeout_s: float = 0.0
    grace_s: float = 10.0
    drain_s: float = 2.0
    kill_s: float = 10.0
    kill_leftovers: bool = False
    only_alert: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """The child is forked and blocked; nothing of the order has run. `start_by` None: no limit."""

    start_by: float | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """The order runs; `overdue_at` None means no timeout. `start_by` is set until its exec."""

    overdue_at: float | None
    start_by: float | None = None


@dataclass(frozen=True, slots=True)
class Stopping:
    """The tree was asked to end and has until `kill_at`."""

    reason: str
    kill_at: float


@dataclass(frozen=True, slots=True)
class Draining:
    """The main process has ended (or was given up); its last output is collected.

    `clear`: survivors may not stay; they have until `until`.
    """

    reason: str | None
    until: float
    clear: bool
    kill_failed: bool = False


@dataclass(frozen=True, slots=True)
class Killing:
    """The tree is killed again and again."""

    reason: str | None
    again_at: float
    pause_s: float
    give_up_at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Only the exit is left to write."""

    reason: str | None
    kill_failed: bool


State = Waiting | Running | Stopping | Draining | Killing | Ended


@dataclass(frozen=True, slots=True)
class Opened:
    """The gate was opened: the order runs."""


@dataclass(frozen=True, slots=True)
class Executed:
    """The exec has worked."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A stop request that was not seen before."""

    signal: int
    reason: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class ContactLost:
    """No server was heard of for longer than the order allows."""


@dataclass(frozen=True, slots=True)
class MainEnded:
    """The main process was reaped."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One turn of the loop: the pipes and the tree as they are now (also the tick of time)."""

    pipes: Pipes
    tree_empty: bool


Event = Opened | Executed | StopAsked | ContactLost | MainEnded | Looked


@dataclass(frozen=True, slots=True)
class SignalTree:
    """Send one signal to every process of the tree."""

    signal: int


@dataclass(frozen=True, slots=True)
class KillTree:
    """One round of killing the tree."""


@dataclass(frozen=True, slots=True)
class NoteOverdue:
    """Leave a note that the timeout fired."""


Command = SignalTree | KillTree | NoteOverdue
Step = tuple[State, tuple[Command, ...]]


def step(state: State, event: Event, now: float, limits: Limits) -> Step:
    """The next state and what to do, at monotonic time `now`. Late events change nothing."""
    match state:
        case Waiting():
            return _waiting(state, event, now, limits)
        case Running():
            return _running(state, event, now, limits)
        case Stopping():
            return _stopping(state, event, now, limits)
        case Draining():
            return _draining(state, event, now, limits)
        case Killing():
            return _killing(state, event, now, limits)
        case Ended():
            return state, ()
        case _:
            assert_never(state)


def wake_at(state: State) -> float | None:
    """When time alone can change the state, None when it cannot."""
    match state:
        case Running(overdue_at=overdue_at, start_by=start_by):
            return min((at for at in (overdue_at, start_by) if at is not None), default=None)
        case Stopping(kill_at=at) | Draining(until=at):
            return at
        case Killing():
            return min(state.again_at, state.give_up_at)
        case Waiting(start_by=at):
            return at
        case Ended():
            return None
        case _:
            assert_never(state)


def _waiting(state: Waiting, event: Event, now: float, limits: Limits) -> Step:
    match event:
        case Opened():
            overdue_at = now + limits.timeout_s if limits.timeout_s > 0 else None
            return Running(overdue_at, state.start_by), ()
        case StopAsked(reason=reason):
            return _kill(reason, now, limits)  # nothing of the user's runs: no grace to give
        case ContactLost():
            return _kill("lost_after", now, limits)
        case MainEnded():
            return Draining(None, now + limits.drain_s, clear=True), ()
        case Looked():
            return _not_started(state, now, limits)
        case Executed():
            return state, ()
        case _:
            assert_never(event)


def _running(state: Running, event: Event, now: float, limits: Limits) -> Step:
    match event:
        case StopAsked(signal=signal.SIGKILL, reason=reason):
            return _kill(reason, now, limits)
        case StopAsked():
            return Stopping(event.reason, now + event.grace_s), (SignalTree(event.signal),)
        case ContactLost():
            return Stopping("lost_after", now + limits.grace_s), (SignalTree(signal.SIGTERM),)
        case MainEnded():
            return Draining(None, now + limits.drain_s, limits.kill_leftovers), ()
        case Executed():
            return replace(state, start_by=None), ()
        case Looked():
            if state.overdue_at is None or now < state.overdue_at:
                return _not_started(state, now, limits)
            if limits.only_alert:
                return replace(state, overdue_at=None), (NoteOverdue(),)
            stopping = Stopping("timeout", now + limits.grace_s)
            return stopping, (NoteOverdue(), SignalTree(signal.SIGTERM))
        case Opened():
            return state, ()
        case _:
            assert_never(event)


def _stopping(state: Stopping, event: Event, now: float, limits: Limits) -> Step:
    match event:
        case StopAsked(signal=signal.SIGKILL):
            return _kill(state.reason, now, limits)
        case StopAsked():
            # A later request never gives more time than an earlier one promised.
            sooner = min(state.kill_at, now + event.grace_s)
            return replace(state, kill_at=sooner), (SignalTree(event.signal),)
        case MainEnded():
            # The rest of the tree keeps what is left of its grace, at most the drain.
            until = min(state.kill_at, now + limits.drain_s)
            return Draining(state.reason, until, clear=True), ()
        case Looked():
            return _kill(state.reason, now, limits) if now >= state.kill_at else (state, ())
        case Opened() | Executed() | ContactLost():
            return state, ()
        case _:
            assert_never(event)


def _draining(state: Draining, event: Event, now: float, limits: Limits) -> Step:
    match event:
        case StopAsked() if state.kill_failed:
            return state, ()
        case StopAsked(signal=signal.SIGKILL):
            return _kill(state.reason, now, limits)
        case StopAsked():
            until = min(state.until, now + event.grace_s)
            return replace(state, until=until, clear=True), (SignalTree(event.signal),)
        case Looked(pipes=pipes, tree_empty=empty):
            late = now >= state.until
            if state.clear and late and not empty:
                return _kill(state.reason, now, limits)
            if pipes is Pipes.OWED or not (late or pipes is Pipes.CLOSED):
                return state, ()
            if state.clear and not empty:
                return state, ()
            return Ended(state.reason, state.kill_failed), ()
        case Opened() | Executed() | ContactLost() | MainEnded():
            return state, ()
        case _:
            assert_never(event)


def _killing(state: Killing, event: Event, now: float, limits: Limits) -> Step:
    match event:
        # What this look saw may be all there is to wait for, so it is put to the next state too.
        case Looked(tree_empty=True):
            draining = Draining(state.reason, now + limits.drain_s, clear=False)
            return _draining(draining, event, now, limits)
        case Looked() if now >= state.give_up_at:
            draining = Draining(state.reason, now, clear=False, kill_failed=True)
            return _draining(draining, event, now, limits)
        case Looked() if now >= state.again_at:
            pause_s = min(state.pause_s * 2, _LONGEST_PAUSE_S)
            return replace(state, again_at=now + pause_s, pause_s=pause_s), (KillTree(),)
        case Looked() | Opened() | Executed() | StopAsked() | ContactLost() | MainEnded():
            return state, ()
        case _:
            assert_never(event)


def _not_started(state: Waiting | Running, now: float, limits: Limits) -> Step:
    late = state.start_by is not None and now >= state.start_by
    return _kill("start_timeout", now, limits) if late else (state, ())


def _kill(reason: str | None, now: float, limits: Limits) -> Step:
    killing = Killing(reason, now + _FIRST_PAUSE_S, _FIRST_PAUSE_S, now + limits.kill_s)
    return killing, (KillTree(),)


@dataclass(frozen=True, slots=True)
class Contact:
    """The last change of the contact file, on a clock that no step of the wall clock moves."""

    mtime_ns: int | None
    changed_at: float

    def seen(self, mtime_ns: int | None, now: float) -> Contact:
        """Look again: a changed mtime, forward or back, is a contact; a vanished file is none."""
        if mtime_ns is None or mtime_ns == self.mtime_ns:
            return self
        return Contact(mtime_ns, now)
