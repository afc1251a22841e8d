"""Three servers and fifty agents through every kind of fault, from seeds.

`./dev sim` does the same with a thousand seeds. A failure prints the seed, the invariant
(tests/sim/checks.py) and the end of the trace.
"""

from __future__ import annotations

import os

import pytest

from tests.sim.many import lines, simulate_many, simulation

SEEDS = 25


@pytest.mark.timeout(600)
def test_what_must_hold_holds_whatever_happens() -> None:
    figures, said = simulate_many(1, SEEDS, os.cpu_count() or 1)
    assert not figures.failed, "\n".join(said)
    assert figures.seeds == SEEDS, "\n".join(said)
    assert figures.attempts > 10 * SEEDS


def test_a_seed_is_told_again_exactly() -> None:
    first, again = (next(lines([simulation(7, 1, 1)])) for _ in range(2))
    assert "trace " in first
    assert first.rpartition("trace ")[2] == again.rpartition("trace ")[2]
