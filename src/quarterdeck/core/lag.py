"""Whether a server lags behind what nodes have told it, from the batches of facts that it takes in.

What the beats of nodes show beyond the record is then most likely on its way already: asking for
it would make more to take in and the lag longer (10,000 nodes that end at once: 77 s of processor
time instead of 27).
"""

from __future__ import annotations

FULL_FOR_S = 10.0
"""Two beats: a full batch says that the next ones wait in the stream."""
AT_MOST_S = 60.0


class Lag:
    """Times are seconds of one steady clock. A lag is believed for `AT_MOST_S`, so that nobody
    waits for ever to be asked."""

    def __init__(self) -> None:
        self._full_at: float | None = None
        self._since: float | None = None

    def full(self, now: float) -> None:
        """A batch was as large as batches get."""
        self._full_at = now

    def lags(self, *, crowded: bool, now: float) -> bool:
        """`crowded`: more waits here than one batch takes."""
        full = self._full_at is not None and now - self._full_at <= FULL_FOR_S
        if not (crowded or full):
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since < AT_MOST_S
