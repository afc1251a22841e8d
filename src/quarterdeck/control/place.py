"""The placing loop: gives the tasks of picks their nodes (core/place.py has the rules).

Waits for: a poke (a task that waits for a node was made, a slot became free, another server changed
a run), and a tick of `TICK_S` for heartbeats and for tries whose time has come. Duty of one server,
so that placements know of each other; each is written under the version of its run and of its
attempt, so that two servers that both believe to have the duty place nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial

import msgspec

from quarterdeck.control.lease import PLACES, Leases
from quarterdeck.control.moves import UNPLACED, Full, Moves
from quarterdeck.control.observe import Fleet
from quarterdeck.control.steady import Steady
from quarterdeck.control.step import Stepped, write_guarded
from quarterdeck.core import liveness
from quarterdeck.core.label import effective
from quarterdeck.core.model import Attempt, Counts, Node, Pick, PickBy, Plan, Run, Task
from quarterdeck.core.place import Candidate, Choice, Placement, has_number, place, slots_of
from quarterdeck.core.plan import room
from quarterdeck.core.states import NodeState
from quarterdeck.core.target import resolve
from quarterdeck.errors import Conflict, Invalid
from quarterdeck.service import Clock, Poke
from quarterdeck.store import run as run_store
from quarterdeck.store import step as step_store
from quarterdeck.store.base import Database, Tx

TICK_S = 1.0
TOLD_LEFT_OUT = 5


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a run that started now: how many tasks start `first`, which nodes a pick
    would choose and which not, why; and by node what the tasks on it would wait for."""

    first: int
    placement: Placement | None
    full: Mapping[str, str]


class Placer:
    """Knows which placements are newer than the last beat of their node."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        clock: Clock,
        steady: Steady,
        leases: Leases,
        moves: Moves,
        chance: Callable[[], float],
        poke: Poke,
        full: Full,
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._clock = clock
        self._steady = steady
        self._leases = leases
        self._moves = moves
        self._chance = chance
        self._poke = poke
        self._full = full
        self._fresh: dict[str, list[datetime]] = {}

    async def place_tasks(self) -> None:
        """Loop: place what waits for a node."""
        while True:
            await self._poke.wait(TICK_S)
            if self._leases.holds(PLACES):
                await self.round()

    async def round(self) -> None:
        """Place what can be placed now; the rest waits for slots or heartbeats."""
        waiting = await self._database.read(run_store.unplaced)
        (self._full.add if waiting else self._full.discard)(UNPLACED)
        runs = {attempt.run: attempt.priority for attempt in waiting}
        for run in sorted(runs, key=lambda run: (-runs[run], run)):
            nodes = self._fleet.every()
            look = partial(self._look, run_id=run, nodes=nodes, fresh=self._reservations(nodes))
            if not await self._database.read(look):
                continue  # nothing fits: the writer is not asked
            stepped = await write_guarded(self._database, partial(self._write, look=look))
            if stepped is not None:
                for node in stepped.nodes:
                    self._fresh.setdefault(node, []).append(self._clock.now())
                self._moves.steps([stepped])

    async def foresee(self, plan: Plan, nodes: list[Node]) -> Forecast:
        """What a run over these nodes would come to now; nothing is reserved."""
        held = Counter(await self._database.read(run_store.open_counts))
        pick, found = plan.pick, None
        total = len(nodes) if pick is None else pick.count
        if pick is not None:
            round_ = _Round(pick, nodes, self._clock.now(), self._reservations(nodes))
            round_.held = held
            found = round_.placement(nodes, pick.count, self._chance)
        waits = {
            node.id: f"Its slots ({slots_of(node.facts)}) are in use: its task waits for one."
            for node in nodes
            if held[node.id] >= slots_of(node.facts)
        }
        first = room(plan, Counts(total=total, pending=total))
        return Forecast(first=first, placement=found, full=waits)

    def _reservations(self, nodes: Iterable[Node]) -> Counter[str]:
        """How many were placed on each node since its last beat."""
        seen = {node.id: node.last_seen for node in nodes}
        for node, times in list(self._fresh.items()):
            beat = seen.get(node)
            self._fresh[node] = [at for at in times if beat is not None and at >= beat]
            if not self._fresh[node]:
                del self._fresh[node]
        return Counter({node: len(times) for node, times in self._fresh.items()})

    def _look(self, tx: Tx, run_id: str, nodes: list[Node], fresh: Counter[str]) -> _Found | None:
        """What can be done for a run; None when that is nothing."""
        steady = self._steady.now()
        run = run_store.get(tx, run_id)
        waiting = [one for one in run_store.unplaced(tx, run_id) if _is_due(one, steady)]
        if run.plan.pick is None or not waiting:
            return None
        tasks = {task.id: task for task in run_store.tasks_of(tx, run_id)}
        round_ = _Round(run.plan.pick, self._matching(run, nodes), self._clock.now(), fresh)
        round_.held = Counter(run_store.open_counts(tx))
        round_.taken = {task.node for task in tasks.values() if task.node}
        first = [one for one in waiting if one.number == 1]
        choices = list(
            zip(first, round_.choose(len(first), frozenset(), self._chance), strict=False)
        )
        for one in waiting:
            if one.number > 1:
                earlier = frozenset(run_store.nodes_of_task(tx, one.task))
                choices += [(one, choice) for choice in round_.choose(1, earlier, self._chance)]
        placed = [
            _placed(one, tasks[one.task], choice, round_.nodes[choice.node], steady)
            for one, choice in choices
        ]
        late = _late(waiting, {one.id for one, _ in placed}, steady) if round_.has_hope() else []
        return _Found(run=run, placed=placed, late=late) if placed or late else None

    def _write(self, tx: Tx, look: Callable[[Tx], _Found | None]) -> Stepped | None:
        """Place attempts of one run; None when none could be."""
        found = look(tx)
        if found is None:
            return None
        soon = timedelta(seconds=liveness.SILENT_AFTER_S)
        run_store.postpone(tx, found.late, self._steady.now() + soon)
        if not found.placed:
            return None
        run_store.place(tx, [one for one, _ in found.placed])
        tasks = [task for _, task in found.placed]
        after = step_store.stepped(tx, found.run, tasks, (), more=True)
        return Stepped(run=after, nodes=frozenset(one.node for one, _ in found.placed))

    def _matching(self, run: Run, nodes: list[Node]) -> list[Node]:
        try:
            return resolve(run.target, nodes, self._clock.now())
        except (Conflict, Invalid):  # a plain name that several nodes have by now
            return []


class _Found(msgspec.Struct, frozen=True):
    """What can be placed of a run, and what waits on for a slot or a beat."""

    run: Run
    placed: list[tuple[Attempt, Task]]
    late: list[str]


class _Round:
    """The candidates of one run while its tasks are placed."""

    def __init__(
        self, pick: Pick, nodes: list[Node], now: datetime, fresh: Mapping[str, int]
    ) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.held: Counter[str] = Counter()
        self.taken: set[str] = set()
        self._pick = pick
        self._now = now
        self._fresh = Counter(fresh)

    def has_hope(self) -> bool:
        """Whether some node may come to fit: it is there, and only full, given a task since its
        last beat, or busier than allowed."""
        return any(
            self._is_ready(node) and not node.draining and self._has_figure(node)
            for node in self.nodes.values()
            if node.id not in self.taken
        )

    def _has_figure(self, node: Node) -> bool:
        return self._pick.by is not PickBy.LABEL or has_number(self._candidate(node).metric)

    def choose(
        self, count: int, earlier: frozenset[str], chance: Callable[[], float]
    ) -> tuple[Choice, ...]:
        """Nodes for so many tasks; not those of other tasks of the run, and not `earlier` ones of
        the task unless there are no others at all."""
        if not count:
            return ()
        free = [node for node in self.nodes.values() if node.id not in self.taken]
        fit = [node for node in free if node.id not in earlier] or free
        found = self.placement(fit, count, chance)
        for choice in found.chosen:
            self.taken.add(choice.node)
            self.held[choice.node] += 1
            self._fresh[choice.node] += 1
        return tuple(self._told(choice, found) for choice in found.chosen)

    def placement(
        self, nodes: Iterable[Node], count: int, chance: Callable[[], float]
    ) -> Placement:
        """What the rules say of these nodes now; nothing is taken by it."""
        return place(self._pick, [self._candidate(node) for node in nodes], count, chance)

    def _told(self, choice: Choice, found: Placement) -> Choice:
        """The choice with the reasons against a few of the others."""
        against = [
            f"{self.nodes[one.node].name} {one.reason}" for one in found.left_out[:TOLD_LEFT_OUT]
        ]
        more = len(found.left_out) - len(against)
        rest = [f"{more} more"] if more > 0 else []
        text = "; ".join([choice.reason, *against, *rest])
        return msgspec.structs.replace(choice, reason=text)

    def _candidate(self, node: Node) -> Candidate:
        load = node.load
        used = 100.0 * load.memory_used / load.memory_total if load.memory_total else 0.0
        return Candidate(
            node=node.id,
            ready=self._is_ready(node),
            draining=node.draining,
            slots=slots_of(node.facts),
            held=self.held[node.id],
            fresh=self._fresh[node.id],
            cpu_percent=load.cpu_percent,
            load1=load.load1,
            cpus=node.facts.cpus,
            memory_percent=used,
            metric=effective(node).get(self._pick.label, "") if self._pick.label else "",
        )

    def _is_ready(self, node: Node) -> bool:
        return liveness.state(node, self._now) is NodeState.READY and not node.full


def _late(waiting: list[Attempt], placed: set[str], steady: datetime) -> list[str]:
    soon = steady + timedelta(seconds=liveness.SILENT_AFTER_S / 2)
    return [
        one.id
        for one in waiting
        if one.id not in placed and one.offer_until is not None and one.offer_until < soon
    ]


def _is_due(attempt: Attempt, steady: datetime) -> bool:
    return attempt.not_before is None or attempt.not_before <= steady


def _placed(
    attempt: Attempt, task: Task, choice: Choice, node: Node, steady: datetime
) -> tuple[Attempt, Task]:
    until = steady + timedelta(seconds=liveness.SILENT_AFTER_S)
    kept = attempt.offer_until
    return (
        msgspec.structs.replace(
            attempt,
            node=node.id,
            node_name=node.name,
            offer_until=until if kept is None else max(kept, until),
        ),
        msgspec.structs.replace(
            task,
            node=node.id,
            node_name=node.name,
            node_state=NodeState.READY.value,
            reason=choice.reason,
        ),
    )
