"""The machine of one attempt: signals, and ends that are corrected."""

from __future__ import annotations

import pytest

from quarterdeck.core.attempt import Sealed, SignalAsked, step
from quarterdeck.core.model import Attempt, Reason
from quarterdeck.core.states import Outcome, Phase
from tests.unit.test_attempt import (
    ACCEPTED,
    FRESH,
    GOOD,
    NOW,
    RUNNING,
    SENT,
    STOP,
    UNREADABLE,
    after,
    said,
)

HUP = SignalAsked(signal=1, tree=False, key="first")


def test_signals_are_numbered_and_a_repeated_request_adds_none() -> None:
    other = SignalAsked(signal=10, tree=True, key="second")
    seen = after(RUNNING, HUP, HUP, other, HUP)
    assert [(s.number, s.signal, s.tree) for s in seen.signals] == [(1, 1, False), (2, 10, True)]


@pytest.mark.parametrize(
    "start", [FRESH, SENT, after(GOOD), after(UNREADABLE), after(RUNNING, STOP, GOOD)]
)
def test_what_has_not_begun_or_has_ended_takes_no_signal(start: Attempt) -> None:
    assert step(start, HUP, NOW) is start


def test_a_kill_failed_attempt_keeps_its_outcome_when_the_rest_has_gone_after_all() -> None:
    stuck = said(4, Phase.ENDED, reason=Reason.CANCELLED, kill_failed=True, survivors=1)
    gone = said(5, Phase.ENDED, reason=Reason.CANCELLED, kill_failed=True, gone_at=NOW)
    before = after(RUNNING, stuck, Sealed())
    seen = step(before, gone, NOW)
    assert seen.snapshot is not None and seen.snapshot.gone_at == NOW
    assert (seen.outcome, seen.snapshot.revision) == (Outcome.KILL_FAILED, 5)
    assert step(seen, gone, NOW) is seen


def test_a_start_that_took_too_long_is_an_outcome_of_its_own() -> None:
    seen = after(ACCEPTED, said(2, Phase.ENDED, reason=Reason.START_TIMEOUT))
    assert seen.outcome is Outcome.START_TIMEOUT
