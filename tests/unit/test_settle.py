"""When an agent may act on what an earlier start left."""

from __future__ import annotations

from quarterdeck.agent.settle import ALONE_S, QUARANTINE_BEATS, SETTLE_S, Settling
from quarterdeck.core import liveness
from tests.clocks import HandClock

BEAT_S = 5.0


def test_an_agent_that_reaches_nobody_goes_on_after_a_bounded_time() -> None:
    clock = HandClock()
    settling = Settling(clock, BEAT_S)
    clock.at += ALONE_S - 0.1
    assert settling.left_s() > 0
    clock.at += 0.1
    assert settling.left_s() == 0


def test_after_its_first_beat_it_waits_a_moment_for_a_word_of_quarantine() -> None:
    clock = HandClock()
    settling = Settling(clock, BEAT_S)
    settling.beaten()
    clock.at += SETTLE_S - 0.1
    settling.beaten()
    assert 0 < settling.left_s() < SETTLE_S
    clock.at += 0.1
    assert settling.left_s() == 0


def test_it_waits_as_long_as_it_is_told_of_a_quarantine_and_not_once_it_went_on() -> None:
    clock = HandClock()
    settling = Settling(clock, BEAT_S)
    settling.beaten()
    for _ in range(10):
        clock.at += 1
        settling.quarantined()
        assert settling.left_s() > BEAT_S
    clock.at += (QUARANTINE_BEATS + 1) * BEAT_S
    assert settling.left_s() == 0
    settling.quarantined()
    assert settling.left_s() == 0


def test_neither_a_replaced_session_nor_a_quarantined_node_is_believed() -> None:
    sessions = liveness.beat(liveness.beat(liveness.Sessions(), "first"), "second")
    assert not liveness.believed(sessions, "first")
    assert liveness.believed(sessions, "second")
    assert liveness.believed(sessions, "third"), "it may have started just now"
    cloned = liveness.beat(sessions, "first")
    assert not any(liveness.believed(cloned, session) for session in ("first", "second", ""))
