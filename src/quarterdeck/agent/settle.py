"""When an agent that starts may act on what an earlier start left: start it, or end it.

Theory. A state directory may have been copied while its agent ran. On the copy an attempt that
runs on the original looks like one whose shim was killed, and one that is about to start there
looks unstarted. Nothing on the machine tells the difference, but the servers can: a beat of the
copy makes them ask, the original answers, and the node is quarantined. So what was found at the
start waits until a beat was sent and `SETTLE_S` have passed without a word of quarantine; where no
beat can be sent for `ALONE_S`, the agent goes on alone. What is running is followed at once, and
what was accepted since the start waits for nothing.
"""

from __future__ import annotations

from quarterdeck.service import Clock

SETTLE_S = 1.5
ALONE_S = 10.0
QUARANTINE_BEATS = 3


class Settling:
    """One start of an agent. A word of quarantine counts for `QUARANTINE_BEATS` of its beats: the
    servers repeat it with each beat they hear while it lasts."""

    def __init__(self, clock: Clock, beat_s: float) -> None:
        self._clock = clock
        self._hold_s = QUARANTINE_BEATS * beat_s
        self._until = clock.monotonic() + ALONE_S
        self._beaten = False
        self._over = False

    def beaten(self) -> None:
        """A beat was sent."""
        if not self._beaten:
            self._beaten = True
            self._until = min(self._until, self._clock.monotonic() + SETTLE_S)

    def quarantined(self) -> None:
        """A server says that two agents use this identity."""
        self._until = max(self._until, self._clock.monotonic() + self._hold_s)

    def left_s(self) -> float:
        """Seconds that are still to be waited; once it was nothing it stays so."""
        left = self._until - self._clock.monotonic()
        self._over = self._over or left <= 0
        return 0.0 if self._over else left
