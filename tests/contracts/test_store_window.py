"""Two servers step one windowed run at once: never more tasks than the window, none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from quarterdeck.control.step import Stepped, Times, step_run, write_guarded
from quarterdeck.core import attempt as attempt_machine
from quarterdeck.core.model import Amount, Counts, Plan
from quarterdeck.core.states import Outcome, Phase, RunState, TaskState
from quarterdeck.store import run as store
from quarterdeck.store.base import Database, Tx
from tests.contracts.backends import BACKENDS
from tests.contracts.test_store import NOW, new_run, said

pytestmark = pytest.mark.anyio
TASKS = 24
WINDOW = 4
OPEN = (TaskState.QUEUED, TaskState.RUNNING)


@pytest.fixture
async def second(
    database: Database, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Database]:
    """Another server's way to the same database."""
    made = BACKENDS[request.node.callspec.params["database"]](tmp_path)
    await made.start()
    yield made
    await made.stop()


async def windowed(database: Database) -> str:
    plan = Plan(max_parallel=Amount(count=WINDOW))
    counts = Counts(total=TASKS, queued=WINDOW, pending=TASKS - WINDOW)
    run, tasks, attempts = new_run(0, TASKS, plan=plan, counts=counts)
    waiting = [
        msgspec.structs.replace(task, state=TaskState.PENDING, tries=0) for task in tasks[WINDOW:]
    ]
    rows = (run, [*tasks[:WINDOW], *waiting], attempts[:WINDOW])
    await database.write(lambda tx: store.create(tx, *rows, None))
    return run.id


async def ended(database: Database, run: str, attempt: str) -> Stepped:
    """What a server does that takes in the end of an attempt."""

    def unit(tx: Tx) -> Stepped:
        before = store.attempts_by_id(tx, [attempt])[attempt]
        end = said(attempt, Phase.ENDED, exit_code=0, accepted_at=NOW)
        after = attempt_machine.step(before, end, NOW)
        store.save_attempts(tx, [(before, after)], NOW)
        return step_run(tx, run, Times(NOW, NOW))

    return await write_guarded(database, unit)


async def test_two_servers_that_step_one_run_keep_its_window_and_start_each_task_once(
    database: Database, second: Database
) -> None:
    run = await windowed(database)
    both = (database, second)
    for _ in range(TASKS // WINDOW):
        tasks = await database.read(lambda tx: store.tasks_of(tx, run))
        going = [task for task in tasks if task.state in OPEN]
        assert len(going) == WINDOW
        await asyncio.gather(
            *(ended(both[at % 2], run, f"{task.id}-1") for at, task in enumerate(going)),
            *(ended(both[1 - at % 2], run, f"{task.id}-1") for at, task in enumerate(going)),
        )
    tasks = await second.read(lambda tx: store.tasks_of(tx, run))
    assert {(task.outcome, task.tries) for task in tasks} == {(Outcome.SUCCEEDED, 1)}
    attempts = await second.read(lambda tx: store.attempts_of(tx, run))
    assert sorted(one.id for one in attempts) == sorted(f"{task.id}-1" for task in tasks)
    over = await second.read(lambda tx: store.get(tx, run))
    assert (over.state, over.outcome, over.counts.succeeded) == (
        RunState.ENDED,
        Outcome.SUCCEEDED,
        TASKS,
    )
