"""The wait before another try: bounded, growing, and spread over all of its range."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.fabric.nats.link import Options
from quarterdeck.service import Backoff

CHANCE = st.floats(0, 1)


def wait(failures: int, chance: float) -> float:
    options = Options()
    backoff = Backoff(options.backoff_first_s, options.backoff_cap_s, lambda: chance)
    backoff.failures = failures
    return backoff.wait_s()


@given(st.integers(0, 10**6), CHANCE)
def test_a_wait_is_never_below_nothing_or_above_its_cap(failures: int, chance: float) -> None:
    assert 0 <= wait(failures, chance) <= Options().backoff_cap_s


@given(st.integers(0, 100), CHANCE)
def test_one_more_failure_never_shortens_the_wait(failures: int, chance: float) -> None:
    assert wait(failures, chance) <= wait(failures + 1, chance)


def test_the_cap_doubles_until_the_limit() -> None:
    assert [wait(failures, 1.0) for failures in range(6)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_ten_thousand_that_lost_their_server_at_once_come_back_evenly() -> None:
    draw = random.Random(7).random
    for failures in (0, 2, 10):
        cap = wait(failures, 1.0)
        slots = [0] * 20
        for _ in range(10_000):
            slots[int(wait(failures, draw()) / cap * 19.999)] += 1
        assert all(400 < number < 600 for number in slots)  # 500 each


def test_after_a_reset_the_next_failure_is_the_first() -> None:
    backoff = Backoff(0.2, 2.0, lambda: 1.0)
    assert [backoff.wait_s() for _ in range(3)] == [0.2, 0.4, 0.8]
    assert backoff.wait_s(cap_s=0.5) == 0.5
    backoff.reset()
    assert backoff.wait_s() == 0.2
