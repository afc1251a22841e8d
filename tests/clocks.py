"""A clock that tests move by hand."""

from __future__ import annotations

from datetime import UTC, datetime


class HandClock:
    """`service.Clock` that stands still until `at` (seconds) is set."""

    def __init__(self, at: float = 100.0) -> None:
        self.at = at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def monotonic(self) -> float:
        return self.at
