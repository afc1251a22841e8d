"""When a task is tried again: which ends are worth it, and how long to wait.

Only an attempt whose end is known is followed by another one, so two never run at once; a lost
one, whose end nobody saw, only when the order says that this does no harm. The wait grows by a
factor up to a cap, and is drawn evenly from nothing to that (full jitter), so that many nodes that
failed together do not come back together.
"""

from __future__ import annotations

from quarterdeck.core.model import Attempt, Retry
from quarterdeck.core.states import AttemptState, Outcome

WORTH_IT = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.START_TIMEOUT)


def is_due(retry: Retry, attempt: Attempt) -> bool:
    """Whether the task of an attempt that has ended is to be tried again."""
    if attempt.state is not AttemptState.ENDED or attempt.number >= retry.attempts:
        return False
    if attempt.stops:  # somebody wanted it to end, whatever it came to by itself
        return False
    if attempt.outcome is Outcome.LOST:
        return retry.idempotent
    if attempt.outcome not in WORTH_IT:
        return False
    code = exit_code(attempt)
    if attempt.outcome is Outcome.TIMED_OUT or code is None:
        return True  # codes say nothing about an attempt that did not end by itself
    return code not in retry.never_on and (not retry.retry_on or code in retry.retry_on)


def exit_code(attempt: Attempt) -> int | None:
    """The process's own code, 128 + n when signal n ended it; None when no process ended."""
    seen = attempt.snapshot
    if seen is None:
        return None
    return 128 + seen.signal if seen.signal is not None else seen.exit_code


def longest_wait_s(retry: Retry, tried: int) -> float:
    """The cap of the wait after so many tries."""
    wait_s = retry.delay_s
    for _ in range(tried - 1):
        wait_s *= retry.factor
        if wait_s >= retry.max_delay_s:
            break
    return min(wait_s, retry.max_delay_s)


def wait_s(retry: Retry, tried: int, chance: float) -> float:
    """How long to wait after so many tries; `chance` is from 0 to 1."""
    return longest_wait_s(retry, tried) * chance
