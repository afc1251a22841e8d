"""What follows a commit that moved attempts or ended runs: events, screens, orders, sealing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from quarterdeck.control.changes import Changes, end_topic, run_topic
from quarterdeck.control.steady import Steady
from quarterdeck.control.step import Stepped
from quarterdeck.core.model import Attempt
from quarterdeck.core.reconcile import orders_for
from quarterdeck.core.states import Phase
from quarterdeck.service import Poke
from quarterdeck.telemetry import AttemptsMoved, RunEnded, Telemetry

Full = set[str]
"""Nodes for which something waits for a free slot, as this server last saw them; `UNPLACED` when
a task waits for a node."""

UNPLACED = ""
"""The node of an attempt that a pick has not placed yet."""


class Moves:
    """Told by whoever has committed; wakes who acts on it or shows it."""

    def __init__(
        self,
        *,
        changes: Changes,
        telemetry: Telemetry,
        steady: Steady,
        dispatch: Poke,
        seal: Poke,
        place: Poke,
        full: Full,
    ) -> None:
        self._changes = changes
        self._telemetry = telemetry
        self._steady = steady
        self._dispatch = dispatch
        self._seal = seal
        self._place = place
        self._full = full

    def attempts(self, pairs: Iterable[tuple[Attempt, Attempt]]) -> bool:
        """Attempts before and after the commit; whether any differs."""
        moved = [(before, after) for before, after in pairs if after is not before]
        states = Counter(
            str(after.outcome or after.state)
            for before, after in moved
            if (before.state, before.outcome) != (after.state, after.outcome)
        )
        if states:
            self._telemetry.emit(AttemptsMoved(states=dict(states)))
        for run in {after.run for _, after in moved}:
            self._changes.tell(run_topic(run))
        now = self._steady.now()
        if wanting := {after.node for _, after in moved if orders_for([after], now)}:
            self._dispatch(*wanting - {UNPLACED})
        freed = {after.node for _, after in moved if _has_ended(after)}
        # another server may know better what waits there
        full = self._full if self._changes.alone() else freed
        if waited_for := (full & freed) - {UNPLACED}:
            self._dispatch(*waited_for)
        if freed and UNPLACED in self._full:
            self._place(UNPLACED)
        if any(_is_to_be_sealed(after) for _, after in moved):
            self._seal()
        return bool(moved)

    def steps(self, stepped: Sequence[Stepped]) -> None:
        """Runs as the commit left them; a run that had ended before is never stepped."""
        for run in (each.run for each in stepped):
            self._changes.tell(run_topic(run.id))
            if run.outcome is not None:
                self._changes.tell(end_topic(run.id))
                self._telemetry.emit(RunEnded(run=run.id, outcome=run.outcome.value))
        self.attempts(pair for each in stepped for pair in each.pairs)
        if nodes := {node for each in stepped for node in each.nodes}:
            self._dispatch(*nodes - {UNPLACED})
            if UNPLACED in nodes:
                self._place(UNPLACED)


def _has_ended(attempt: Attempt) -> bool:
    return attempt.snapshot is not None and attempt.snapshot.phase is Phase.ENDED


def _is_to_be_sealed(attempt: Attempt) -> bool:
    return _has_ended(attempt) and not attempt.sealed
