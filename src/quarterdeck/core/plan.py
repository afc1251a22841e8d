"""The arithmetic of a plan: how many tasks may start now, and whether none may any more.

All of it is decided on the counts of a run:

- Never more tasks at once than the window: `max_parallel`, at least 1. A task that waits for its
  next try keeps its place.
- The first `canary` tasks come alone; the others start only when all of them have succeeded.
- More failed tasks than `max_failures` allows (a percentage is rounded down), or a canary that did
  not succeed, halts the run: nothing of it starts any more. A task counts once, with its last try.
- A pending task that somebody cancels is skipped: the run goes on as if it were not there, only
  percentages stay those of all its targets.
- As long as a run is not halted, something of it runs or may start: so it ends.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor

from quarterdeck.core.model import Amount, Counts, Halt, Plan
from quarterdeck.errors import Invalid

AMOUNT = re.compile(r"(?P<count>\d{1,7})|(?P<percent>\d{1,3}(?:\.\d{1,3})?)%")


def parse_amount(text: str, what: str) -> Amount:
    """`3`, `20%`, or both (`2,10%`). Raises Invalid with a sentence about `what`."""
    parts: dict[str, str] = {}
    for word in text.split(","):
        found = AMOUNT.fullmatch(word.strip())
        kind = found and found.lastgroup
        if found is None or kind is None or kind in parts:
            raise Invalid(
                "amount",
                f"{what}: {text[:80]!r} is no amount: write a number (3), a percentage of the "
                "targets (20%), or both (2,10%).",
            )
        parts[kind] = found[kind]
    percent = float(parts["percent"]) if "percent" in parts else None
    if percent is not None and percent > 100:
        raise Invalid("amount", f"{what}: {percent:g}% is more than all of the targets.")
    return Amount(count=int(parts["count"]) if "count" in parts else None, percent=percent)


def amount_text(amount: Amount) -> str:
    """The amount as people write it."""
    count = [] if amount.count is None else [str(amount.count)]
    percent = [] if amount.percent is None else [f"{amount.percent:g}%"]
    return ",".join(count + percent)


def of_total(amount: Amount, total: int) -> int:
    """The smaller of the amount's number and its share of `total`, rounded down."""
    shares = [] if amount.count is None else [amount.count]
    if amount.percent is not None:
        shares.append(floor(Fraction(str(amount.percent)) * total / 100))
    return min(shares, default=total)


def window(plan: Plan, total: int) -> int:
    """How many tasks of `total` may be under way at once."""
    if plan.max_parallel is None:
        return total
    return max(1, of_total(plan.max_parallel, total))


def failures(counts: Counts) -> int:
    """Tasks that ended in any way that is neither success nor somebody's wish."""
    return counts.ended - counts.succeeded - counts.cancelled - counts.skipped


def started(counts: Counts) -> int:
    """How many tasks have been started, of a run that is not halted: skipped are only those that
    somebody took out."""
    return counts.total - counts.pending - counts.skipped


def crossed(plan: Plan, counts: Counts) -> tuple[Halt, str] | None:
    """Why a run with these counts is to start nothing any more; None while it may."""
    failed = failures(counts)
    if failed and plan.max_failures is not None:
        limit = of_total(plan.max_failures, counts.total)
        if failed > limit:
            noun = "failure" if failed == 1 else "failures"
            return Halt.LIMIT, f"stopped after {failed} {noun} (limit {limit})"
    canaries = min(plan.canary, counts.total - counts.skipped)
    if counts.succeeded < canaries and counts.ended - counts.skipped > counts.succeeded:
        noun = "task" if canaries == 1 else f"{canaries} tasks"
        return Halt.CANARY, f"stopped because the first {noun} did not all succeed"
    return None


def room(plan: Plan, counts: Counts) -> int:
    """How many of the pending tasks may start now, of a run that is not halted."""
    free = min(counts.pending, window(plan, counts.total) - counts.active)
    if counts.succeeded < plan.canary:
        free = min(free, plan.canary - started(counts))
    return max(0, free)
