"""S14 to S17 of tests/sim/checks.py: windows, halts and tries, after every commit and exec."""

from __future__ import annotations

from quarterdeck.core.ids import split_attempt
from quarterdeck.core.model import Attempt, Run
from quarterdeck.core.plan import crossed, window
from quarterdeck.core.states import AttemptState, TaskState
from quarterdeck.store import run as run_store
from tests.sim.world import World

SLOTS = 2  # of a simulated machine
UNDER_WAY = (TaskState.QUEUED, TaskState.RUNNING, TaskState.RETRYING)


class PlanChecks:
    """Knows of each run how it was after the last commit that touched it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[str, Run] = {}
        self._attempts: dict[str, set[str]] = {}

    def committed(self, ids: list[str]) -> None:
        """Attempts were changed or made."""
        for run in sorted({split_attempt(id)[0] for id in ids}):
            self._look(run)

    def executed(self, attempt: str) -> None:
        """A node is about to begin an attempt."""
        run_id = split_attempt(attempt)[0]
        found = self._world.store.look(lambda tx: run_store.attempts_by_id(tx, [attempt]))
        run = self._runs[run_id]
        not_before = found[attempt].not_before
        self._world.check(
            not_before is None or self._world.clock.now() >= not_before,
            f"S16: {attempt} was executed before its time.",
        )
        self._slots(found[attempt].node)
        living = self._living(run_id)
        self._world.check(
            living <= window(run.plan, run.counts.total) or run.plan.retry.idempotent,
            f"S14: {living} processes of {run_id} live at once.",
        )

    def _slots(self, node: str) -> None:
        machine = next(m for m in self._world.machines.values() if m.name == node)
        held = sum(
            t.execs > 0 and not t.exited and not t.shim_killed for t in machine.truth.values()
        )
        most = SLOTS + len(self._world.servers) - 1
        self._world.check(held <= most, f"S17: {node} runs {held} attempts in {SLOTS} slots.")

    def _living(self, run: str) -> int:
        return sum(
            attempt.startswith(run + "-") and truth.execs > 0 and not truth.exited
            for machine in self._world.machines.values()
            for attempt, truth in machine.truth.items()
            if not truth.shim_killed
        )

    def _look(self, run_id: str) -> None:
        check, look = self._world.check, self._world.store.look
        run = look(lambda tx: run_store.get(tx, run_id))
        tasks = look(lambda tx: run_store.tasks_of(tx, run_id))
        attempts = look(lambda tx: run_store.attempts_of(tx, run_id))
        before, self._runs[run_id] = self._runs.get(run_id), run
        active = sum(task.state in UNDER_WAY for task in tasks)
        check(
            active <= window(run.plan, run.counts.total),
            f"S14: {active} tasks of {run_id} are under way at once.",
        )
        places = [task.node for task in tasks if task.node]
        check(
            run.plan.pick is None or len(set(places)) == len(places),
            f"S17: two tasks of {run_id} were placed on one node.",
        )
        known = self._attempts.get(run_id, set())
        self._attempts[run_id] = {attempt.id for attempt in attempts}
        made = [attempt for attempt in attempts if attempt.id not in known]
        check(
            not (made and before is not None and before.halt is not None),
            f"S15: {run_id} got {[attempt.id for attempt in made]} after it was halted.",
        )
        over = run.halt is None and crossed(run.plan, run.counts) is not None
        check(not over, f"S15: {run_id} has more failures than allowed, and goes on.")
        self._tries(run, attempts)

    def _tries(self, run: Run, attempts: list[Attempt]) -> None:
        by_id = {attempt.id: attempt for attempt in attempts}
        for attempt in attempts:
            if attempt.number == 1:
                continue
            earlier = by_id.get(f"{attempt.task}-{attempt.number - 1}")
            self._world.check(
                earlier is not None and earlier.state is AttemptState.ENDED,
                f"S16: {attempt.id} was made before the end of the try before it.",
            )
            self._world.check(
                earlier is None or not earlier.stops,
                f"S16: {attempt.id} follows a try that somebody had asked to stop.",
            )
            self._world.check(
                attempt.number <= run.plan.retry.attempts,
                f"S16: {attempt.id} is a try too many.",
            )
