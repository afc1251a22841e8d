"""What a step of a run reads and writes: changed attempts, tasks, the run under its guard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select, update

from quarterdeck.core.model import Attempt, Run, Task
from quarterdeck.core.states import (
    RUN_MOVES,
    AttemptState,
    Outcome,
    RunState,
    TaskState,
)
from quarterdeck.store import statements as sql
from quarterdeck.store.base import StaleWrite, Tx
from quarterdeck.store.rows import (
    attempt_record,
    parts,
    run_state_values,
    task_record,
    task_values,
    to_us,
)
from quarterdeck.store.tables import attempts, runs, tasks

TASK_STATE_FIELDS = (
    "node",
    "node_name",
    "node_state",
    "state",
    "outcome",
    "exit_code",
    "tries",
    "reason",
    "changed",
)


def due_runs(tx: Tx, limit: int) -> list[str]:
    """Runs whose attempts changed since they were last stepped."""
    return [row.id for row in tx.execute(select(runs.c.id).where(runs.c.due).limit(limit))]


def fresh(tx: Tx, run_id: str, limit: int) -> list[tuple[Task, Attempt]]:
    """Attempts of a run that changed since it was last stepped, with their tasks."""
    rows = tx.execute(sql.FRESH, {"run": run_id, "most": limit}).all()
    changed = [attempt_record(row) for row in rows]
    by_id: dict[str, Task] = {}
    for part in parts([attempt.task for attempt in changed]):
        for row in tx.execute(sql.TASKS_BY_ID, {"ids": part}).all():
            by_id[row.id] = task_record(row)
    return [(by_id[attempt.task], attempt) for attempt in changed]


def stepped(tx: Tx, run: Run, moved: Sequence[Task], seen: Sequence[Attempt], *, more: bool) -> Run:
    """Write a step: the run under its version guard, its moved tasks, its attempts no longer fresh.

    `more` keeps the run due. Moves that are not in the table of states change nothing; of the run
    that is StaleWrite, as is another version.
    """
    after = msgspec.structs.replace(run, version=run.version + 1)
    values = {"due": more, **run_state_values(after)}
    guards = {
        "b_id": run.id,
        "guard": run.version,
        "allowed": [at.value for at in RunState if run.state in (at, *RUN_MOVES[at])],
    }
    result = tx.execute(
        sql.stepping_run(tuple(values)),
        guards | {"b_" + name: value for name, value in values.items()},
    )
    if result.rowcount != 1:
        raise StaleWrite
    if moved:
        rows = [
            {"b_id": task.id}
            | {
                "b_" + name: value
                for name, value in task_values(
                    msgspec.structs.replace(task, changed=after.version)
                ).items()
                if name in TASK_STATE_FIELDS
            }
            for task in moved
        ]
        sql.execute_many(tx, sql.moving_tasks(TASK_STATE_FIELDS), rows)
    for part in parts([attempt.id for attempt in seen]):
        tx.execute(sql.MARK_SEEN, {"ids": part})
    return after


def skip_pending(tx: Tx, run: Run, reason: str) -> None:
    """End the tasks that have no attempt yet; `run` is as `stepped` gave it back."""
    tx.execute(
        update(tasks)
        .where(tasks.c.run == run.id, tasks.c.state == TaskState.PENDING.value)
        .values(
            state=TaskState.ENDED.value,
            outcome=Outcome.SKIPPED.value,
            reason=reason,
            changed=run.version,
        )
    )


def pending_from(tx: Tx, run_id: str, first: int, count: int) -> list[Task]:
    """The next tasks of a run that have not started, by position; none lies before `first`."""
    rows = tx.execute(
        select(tasks)
        .where(
            tasks.c.run == run_id,
            tasks.c.position >= first,
            tasks.c.state == TaskState.PENDING.value,
        )
        .order_by(tasks.c.position)
        .limit(count)
    )
    return [task_record(row) for row in rows]


def to_stop(tx: Tx, run_id: str, *, begun: bool = True) -> list[Attempt]:
    """Attempts of a run that have not ended; without `begun` those nobody knows to have begun."""
    query = select(attempts).where(
        attempts.c.run == run_id, attempts.c.state != AttemptState.ENDED.value
    )
    if not begun:
        query = query.where(attempts.c.snapshot.is_(None))
    return [attempt_record(row) for row in tx.execute(query.order_by(attempts.c.id))]


def overdue_runs(tx: Tx, now: datetime, limit: int) -> list[str]:
    """Runs that go on after their deadline, and have not been told so."""
    return list(tx.scalars(sql.OVERDUE_RUNS, {"now": to_us(now), "most": limit}))
