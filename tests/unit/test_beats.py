"""Which of its attempts a node names in its heartbeats."""

from __future__ import annotations

import pytest

from quarterdeck.agent.observe import listed
from quarterdeck.wire.run import BEAT_LIMIT


def held(count: int) -> dict[str, int]:
    return {f"{number:016x}-0-1": number for number in range(count)}


@pytest.mark.parametrize("count", [0, 1, BEAT_LIMIT])
def test_a_beat_names_all_attempts_while_they_fit(count: int) -> None:
    for number in range(1, 5):
        assert dict(listed(held(count), number)) == held(count)


@pytest.mark.parametrize("count", [BEAT_LIMIT + 1, 3 * BEAT_LIMIT, 3 * BEAT_LIMIT + 7])
def test_of_more_attempts_each_is_named_by_two_beats_in_turn(count: int) -> None:
    named: dict[str, int] = {}
    for number in range(1, 2 * (count // BEAT_LIMIT + 1), 2):
        first, second = (dict(listed(held(count), number + more)) for more in (0, 1))
        assert first == second and len(first) == BEAT_LIMIT
        named |= first
    assert named == held(count)
