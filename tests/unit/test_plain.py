"""A plain upload while nothing can be kept: what is dropped is counted where it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from quarterdeck.control.trace.plain import HELD_BYTES, PIECE, Plain
from quarterdeck.core.trace import Frame
from quarterdeck.errors import Unavailable

pytestmark = pytest.mark.anyio


class Stopped:
    """A clock that stands."""

    at = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.at


class Away:
    """The service of traces, while nothing can be kept and after that."""

    def __init__(self) -> None:
        self.there = False
        self.taken: list[Frame] = []

    async def take(self, _trace: object, frames: Sequence[Frame]) -> None:
        if not self.there:
            raise Unavailable("away", "Nothing is kept now.")
        self.taken += frames


async def test_nothing_is_kept_behind_a_hole_before_it_is_told() -> None:
    traces: Any = Away()
    trace: Any = None
    clock = Stopped()
    upload = Plain(traces, trace, "stdout", clock)
    await upload.take(b"a" * (HELD_BYTES - 10))
    await upload.take(b"b" * 100)
    await upload.take(b"c")  # would fit
    traces.there, clock.at = True, 1.0
    await upload.take(b"d")
    await upload.take(b"e")
    said = [(one.offset, one.data[-1:], one.dropped) for one in traces.taken]
    ends = [(at, b"a", 0) for at in range(0, HELD_BYTES, PIECE)]
    hole = HELD_BYTES - 10
    assert said == [*ends, (hole, b"", 102), (hole, b"e", 0)]
