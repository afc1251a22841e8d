"""Three servers and fifty agents through every kind of fault, from seeds.

`./dev sim` does the same with a thousand seeds. A failure prints the seed, the invariant
(tests/sim/checks.py) and the end of the trace.
"""

from __future__ import annotations

import os

import pytest

from tests.sim.many import Figures, lines, simulate_many, simulation

SEEDS = 25
AGAIN = 7


@pytest.fixture(scope="module")
def told() -> tuple[Figures, list[str]]:
    """What came of all seeds."""
    return simulate_many(1, SEEDS, os.cpu_count() or 1)


@pytest.mark.timeout(900)
def test_what_must_hold_holds_whatever_happens(told: tuple[Figures, list[str]]) -> None:
    figures, said = told
    assert not figures.failed, "\n".join(said)
    assert figures.seeds == SEEDS, "\n".join(said)
    assert figures.attempts > 10 * SEEDS


@pytest.mark.timeout(900)
def test_a_seed_is_told_again_exactly_also_when_it_is_told_alone(
    told: tuple[Figures, list[str]],
) -> None:
    alone = Figures()
    assert alone.take(next(lines([simulation(AGAIN, 1, 1)])))
    assert alone.traces[str(AGAIN)] == told[0].traces[str(AGAIN)]
