"""Runs made from runs: the same order once more, where it did not succeed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quarterdeck.control.run import NewRun, Runs
from quarterdeck.core.model import Attempt, Run, Task
from quarterdeck.core.states import Outcome, RunState
from quarterdeck.core.traced import check_no_trace
from quarterdeck.errors import Conflict


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks; `everything` also takes the tasks that succeeded."""

    created_by: str
    key: str | None = None
    everything: bool = False


async def left_out(runs: Runs, run_id: str, wish: Retry) -> tuple[str, ...]:
    """The names of nodes that a retry of this run does not go to since they were removed."""
    _, tasks, _ = await runs.detail(run_id)
    meant = [t for t in tasks if wish.everything or t.outcome is not Outcome.SUCCEEDED]
    return tuple(t.node_name for t in meant if t.node and not runs.is_enrolled(t.node))


async def retry(runs: Runs, run_id: str, wish: Retry) -> Run:
    """A new run of the same order on the nodes where it did not succeed.

    Of a pick these are the nodes it had chosen; tasks that never got a node are placed now.
    Raises NotFound, and Conflict for a run that goes on, that failed nowhere, or whose nodes were
    removed.
    """
    run, tasks, attempts = await runs.detail(run_id)
    check_no_trace(run)
    if run.state is not RunState.ENDED:
        raise Conflict(
            "run_not_ended",
            f"Run {run.id} has not ended, so nobody knows yet what is to be tried again: wait for "
            "its end, or cancel it.",
        )
    chosen = [t for t in tasks if wish.everything or t.outcome is not Outcome.SUCCEEDED]
    if not chosen:
        raise Conflict(
            "nothing_failed",
            f"Every task of run {run.id} succeeded: to run them all again use `qd retry --all`.",
        )
    _, order = await runs.order(run.id)
    plan = run.plan
    if plan.pick is not None:  # it counts the tasks of its run
        pick = msgspec.structs.replace(plan.pick, count=len(chosen))
        plan = msgspec.structs.replace(plan, pick=pick)
    return await runs.create(
        NewRun(
            target=run.target,
            order=order,
            title=run.title,
            created_by=wish.created_by,
            namespace=run.namespace,
            plan=plan,
            labels=run.labels,
            key=wish.key,
            origin="retry",
            parent=run.id,
            nodes=_aims(chosen, attempts),
        )
    )


def _aims(tasks: Iterable[Task], attempts: Iterable[Attempt]) -> tuple[str, ...]:
    """The nodes that tasks went to at first, each once: where a later try went is no aim."""
    first: dict[str, str] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.number):
        if attempt.node:
            first.setdefault(attempt.task, attempt.node)
    nodes = (first.get(task.id, task.node) for task in tasks)
    return tuple(dict.fromkeys(node for node in nodes if node))
