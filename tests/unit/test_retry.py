"""Which ends are worth another try, and how long it waits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.model import Attempt, Reason, Retry, Snapshot
from quarterdeck.core.retry import is_due, longest_wait_s, wait_s
from quarterdeck.core.states import AttemptState, Outcome, Phase

TWICE = Retry(attempts=3)


def ended(
    outcome: Outcome,
    number: int = 1,
    code: int | None = None,
    signal: int | None = None,
    reason: Reason | None = None,
) -> Attempt:
    id = f"0123456789abcdef-0-{number}"
    seen = Snapshot(
        attempt=id, revision=3, phase=Phase.ENDED, exit_code=code, signal=signal, reason=reason
    )
    return Attempt(
        id=id,
        run="0123456789abcdef",
        task="0123456789abcdef-0",
        node="n",
        number=number,
        state=AttemptState.ENDED,
        outcome=outcome,
        snapshot=seen,
    )


def test_without_a_retry_nothing_is_tried_again() -> None:
    assert not is_due(Retry(), ended(Outcome.FAILED, code=1))


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST])
def test_what_somebody_asked_to_stop_is_not_tried_again(outcome: Outcome) -> None:
    again = Retry(attempts=3, idempotent=True)
    attempt = ended(outcome, code=1)
    assert is_due(again, attempt)
    assert not is_due(again, msgspec.structs.replace(attempt, stops=1))


def test_a_task_is_tried_as_often_as_it_says_and_no_more() -> None:
    tries = [is_due(TWICE, ended(Outcome.FAILED, number, 1)) for number in (1, 2, 3, 4)]
    assert tries == [True, True, False, False]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.SUCCEEDED, False),
        (Outcome.FAILED, True),
        (Outcome.TIMED_OUT, True),
        (Outcome.CANCELLED, False),
        (Outcome.LOST, False),
        (Outcome.KILL_FAILED, False),
        (Outcome.SKIPPED, False),
    ],
)
def test_what_was_wanted_or_may_still_run_is_not_tried_again(
    outcome: Outcome, expected: bool
) -> None:
    assert is_due(TWICE, ended(outcome)) is expected


def test_a_lost_attempt_is_tried_again_only_when_that_does_no_harm() -> None:
    assert is_due(Retry(attempts=2, idempotent=True), ended(Outcome.LOST))
    harmless = Retry(attempts=2, idempotent=True)
    assert not is_due(harmless, ended(Outcome.KILL_FAILED))


def test_an_attempt_that_has_not_ended_is_not_followed() -> None:
    running = Attempt(id="a", run="r", task="t", node="n", number=1, state=AttemptState.RUNNING)
    assert not is_due(TWICE, running)


@pytest.mark.parametrize(
    ("retry", "code", "signal", "expected"),
    [
        (Retry(attempts=2, retry_on=(1, 75)), 75, None, True),
        (Retry(attempts=2, retry_on=(1, 75)), 2, None, False),
        (Retry(attempts=2, never_on=(2,)), 2, None, False),
        (Retry(attempts=2, never_on=(2,)), 1, None, True),
        (Retry(attempts=2, retry_on=(2,), never_on=(2,)), 2, None, False),
        (Retry(attempts=2, retry_on=(137,)), None, 9, True),
        (Retry(attempts=2, never_on=(137,)), None, 9, False),
        (Retry(attempts=2, retry_on=(75,)), None, None, True),
    ],
)
def test_exit_codes_decide_about_what_ended_by_itself(
    retry: Retry, code: int | None, signal: int | None, expected: bool
) -> None:
    assert is_due(retry, ended(Outcome.FAILED, 1, code, signal)) is expected


def test_a_timeout_is_tried_again_whatever_its_code() -> None:
    retry = Retry(attempts=2, retry_on=(75,))
    assert is_due(retry, ended(Outcome.TIMED_OUT, code=None, signal=15, reason=Reason.TIMEOUT))


def test_the_wait_doubles_up_to_its_cap() -> None:
    retry = Retry(delay_s=1, factor=2, max_delay_s=10)
    assert [longest_wait_s(retry, tried) for tried in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(
    st.floats(0, 1e6),
    st.floats(1, 100),
    st.floats(0, 1e6),
    st.integers(1, 9999),
    st.floats(0, 1, exclude_max=True),
)
def test_the_wait_is_drawn_between_nothing_and_its_cap(
    delay_s: float, factor: float, cap_s: float, tried: int, chance: float
) -> None:
    retry = Retry(delay_s=delay_s, factor=factor, max_delay_s=cap_s)
    longest = longest_wait_s(retry, tried)
    assert longest <= cap_s
    assert 0 <= wait_s(retry, tried, chance) <= longest
    assert longest_wait_s(retry, tried + 1) >= longest
