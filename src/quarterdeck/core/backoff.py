"""How long to wait before something that failed is tried again: full jitter.

The cap of the wait doubles with each failure up to a limit, and the wait is drawn evenly from
nothing to that cap: ten thousand agents that lost their server in one instant come back evenly
spread over the first cap, and those that fail then over twice that.
"""

from __future__ import annotations

MAX_DOUBLINGS = 20


def pause_s(failures: int, *, first_s: float, cap_s: float, chance: float) -> float:
    """The wait after so many failures (0: the link was lost just now); `chance` is from 0 to 1."""
    return chance * min(cap_s, first_s * 2.0 ** min(failures, MAX_DOUBLINGS))
