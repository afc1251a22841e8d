"""A server that lags behind asks nodes for nothing, but not for ever."""

from __future__ import annotations

from quarterdeck.core.lag import AT_MOST_S, FULL_FOR_S, Lag


def test_who_takes_small_batches_does_not_lag() -> None:
    assert not Lag().lags(crowded=False, now=5.0)


def test_a_full_batch_is_a_lag_for_two_beats() -> None:
    lag = Lag()
    lag.full(100.0)
    assert lag.lags(crowded=False, now=100.0)
    assert lag.lags(crowded=False, now=100.0 + FULL_FOR_S)
    assert not lag.lags(crowded=False, now=100.1 + FULL_FOR_S)


def test_a_crowd_that_waits_is_a_lag() -> None:
    assert Lag().lags(crowded=True, now=0.0)


def test_a_lag_that_does_not_end_is_not_believed_any_more() -> None:
    lag = Lag()
    assert lag.lags(crowded=True, now=0.0)
    assert lag.lags(crowded=True, now=AT_MOST_S - 0.1)
    assert not lag.lags(crowded=True, now=AT_MOST_S)


def test_after_a_quiet_moment_a_lag_is_believed_again() -> None:
    lag = Lag()
    lag.lags(crowded=True, now=0.0)
    assert not lag.lags(crowded=False, now=AT_MOST_S)
    assert lag.lags(crowded=True, now=AT_MOST_S + 1)
