"""Where tasks go: which of a node's attempts may start now, and which nodes a pick chooses.

Slots. A node has a number of slots; each attempt that was offered to it and has not ended takes
one. What waits is offered in the order of priority (higher first), then age. An attempt offered
once keeps its slot, answered or not: its node may have begun it.

Picks. A pick wants N distinct nodes out of those its target matches. A candidate must be ready, not
draining, have a free slot, and be under the limits of the pick. Figures are as old as the node's
last heartbeat, while a placement changes load, memory or a label's metric by an unknown amount: by
those a node that was chosen is left out until its next beat, so that stale figures never overload
one node. Ties go by id.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from quarterdeck.core import liveness
from quarterdeck.core.model import Attempt, Facts, Node, Pick, PickBy, Record, Wanted
from quarterdeck.core.states import NodeState, Phase

UNKNOWN_SLOTS = 4
SLOTS_PER_CPU = 2


class Candidate(Record, frozen=True, kw_only=True):
    """A node as a pick sees it. `held` are the attempts it holds or is about to get, `fresh` those
    of them that were placed since its last beat; `metric` is the text of the pick's label."""

    node: str
    ready: bool = True
    draining: bool = False
    slots: int = 1
    held: int = 0
    fresh: int = 0
    cpu_percent: float = 0.0
    load1: float = 0.0
    cpus: int = 1
    memory_percent: float = 0.0
    metric: str = ""


class Choice(Record, frozen=True, kw_only=True):
    """A node that was chosen, and why, as people read it."""

    node: str
    reason: str


class Placement(Record, frozen=True, kw_only=True):
    """What came of a pick: the chosen, best first, and why each other candidate was left out."""

    chosen: tuple[Choice, ...] = ()
    left_out: tuple[Choice, ...] = ()


class Spread:
    """Hands out nodes for tasks that go elsewhere: the one with the fewest tasks first, those that
    it handed out counted; ties by id."""

    def __init__(self, held: Iterable[tuple[int, str]]) -> None:
        self._heap = list(held)
        heapq.heapify(self._heap)

    def next(self, but: str) -> str | None:
        """The next node that is not `but`; None when there is no other."""
        aside = []
        while self._heap and self._heap[0][1] == but:
            aside.append(heapq.heappop(self._heap))
        found = self._heap[0][1] if self._heap else None
        if found is not None:
            held, _ = self._heap[0]
            heapq.heapreplace(self._heap, (held + 1, found))
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return found


def slots_of(facts: Facts) -> int:
    """How many attempts a node takes at once: as its settings say, else two for each CPU."""
    return facts.slots or SLOTS_PER_CPU * facts.cpus or UNKNOWN_SLOTS


def takes_orders(node: Node, now: datetime) -> bool:
    """Whether a node is there and does not drain."""
    return liveness.state(node, now) is NodeState.READY and not node.draining


def open_slots(node: Node, now: datetime) -> int:
    """The slots of a node that takes orders."""
    return slots_of(node.facts) if takes_orders(node, now) else 0


def startable(attempts: Iterable[Attempt], slots: int, now: datetime) -> frozenset[str]:
    """Which of a node's open attempts that were never offered may be offered now."""
    open_ones = [one for one in attempts if not _ended(one)]
    busy = sum(1 for one in open_ones if one.offered)
    waiting = [
        one
        for one in open_ones
        if not one.offered
        and one.wanted is Wanted.RUN
        and (one.not_before is None or one.not_before <= now)
    ]
    waiting.sort(key=lambda one: (-one.priority, one.id))
    return frozenset(one.id for one in waiting[: max(0, slots - busy)])


def place(
    pick: Pick, candidates: Sequence[Candidate], count: int, chance: Callable[[], float]
) -> Placement:
    """Choose up to `count` nodes. `chance` gives numbers from 0 to 1 (for `PickBy.RANDOM`)."""
    left_out = []
    ranked: list[tuple[float, str]] = []
    for one in sorted(candidates, key=lambda one: one.node):
        why = _unfit(pick, one)
        if why:
            left_out.append(Choice(node=one.node, reason=why))
        else:
            ranked.append((_figure(pick, one, chance), one.node))
    ranked.sort()
    chosen, rest = ranked[:count], ranked[count:]
    left_out += [
        Choice(node=node, reason=f"{_shown(pick, figure)}: others are better")
        for figure, node in rest
    ]
    return Placement(
        chosen=tuple(
            Choice(node=node, reason=f"{_shown(pick, figure)}, best of {len(ranked)} fit")
            for figure, node in chosen
        ),
        left_out=tuple(left_out),
    )


def _ended(attempt: Attempt) -> bool:
    return attempt.released or (
        attempt.snapshot is not None and attempt.snapshot.phase is Phase.ENDED
    )


def _unfit(pick: Pick, one: Candidate) -> str:
    """Why a candidate can't be chosen now; empty when it can."""
    if not one.ready:
        return "not ready"
    if one.draining:
        return "draining"
    if one.held >= one.slots:
        return f"full: {one.held} of {one.slots} slots in use"
    if pick.max_cpu and one.cpu_percent > pick.max_cpu:
        return f"CPU at {one.cpu_percent:.0f} %, limit {pick.max_cpu:.0f} %"
    if pick.max_memory and one.memory_percent > pick.max_memory:
        return f"memory at {one.memory_percent:.0f} %, limit {pick.max_memory:.0f} %"
    if pick.by is PickBy.LABEL and _number(one.metric) is None:
        return f"label {pick.label!r} holds no number"
    stale = pick.by in (PickBy.LEAST_LOAD, PickBy.LEAST_MEMORY, PickBy.LABEL)
    limited = bool(pick.max_cpu or pick.max_memory)
    if one.fresh and (stale or limited):
        return "given a task since its last heartbeat"
    return ""


def _figure(pick: Pick, one: Candidate, chance: Callable[[], float]) -> float:
    match pick.by:
        case PickBy.LEAST_LOAD:
            return one.load1 / max(1, one.cpus)
        case PickBy.LEAST_MEMORY:
            return one.memory_percent
        case PickBy.FEWEST_TASKS:
            return one.held
        case PickBy.RANDOM:
            return chance()
        case PickBy.LABEL:
            number = _number(one.metric)
            assert number is not None
            return number


def _shown(pick: Pick, figure: float) -> str:
    match pick.by:
        case PickBy.LEAST_LOAD:
            return f"load {figure:.2f} per CPU"
        case PickBy.LEAST_MEMORY:
            return f"memory at {figure:.0f} %"
        case PickBy.FEWEST_TASKS:
            return f"{figure:.0f} tasks"
        case PickBy.RANDOM:
            return "drawn at random"
        case PickBy.LABEL:
            return f"{pick.label}={figure:g}"


def has_number(metric: str) -> bool:
    """Whether a label's text can be compared."""
    return _number(metric) is not None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
