"""Every store: what is written is a move of the table of states, or nothing."""

from __future__ import annotations

import msgspec
import pytest

from quarterdeck.core.states import AttemptState, Phase, RunState, TaskState
from quarterdeck.errors import Broken
from quarterdeck.store import run as store
from quarterdeck.store import step as step_store
from quarterdeck.store.base import Database, StaleWrite
from tests.contracts.test_store import NOW, changed, created, said

pytestmark = pytest.mark.anyio


async def test_no_write_makes_a_move_that_is_not_in_the_table_of_states(database: Database) -> None:
    run, (task,), (attempt,) = await created(database)
    ended, _ = await changed(database, attempt.id, said(attempt.id, Phase.ENDED, exit_code=0))
    back = msgspec.structs.replace(ended, state=AttemptState.RUNNING)
    with pytest.raises(Broken, match="from ended to running"):
        await database.write(lambda tx: store.save_attempts(tx, [(ended, back)], NOW))
    running = msgspec.structs.replace(run, state=RunState.RUNNING)
    moved = msgspec.structs.replace(task, state=TaskState.RUNNING)
    after = await database.write(
        lambda tx: step_store.stepped(tx, running, [moved], [], more=False)
    )
    pending = msgspec.structs.replace(after, state=RunState.PENDING)
    with pytest.raises(StaleWrite):
        await database.write(lambda tx: step_store.stepped(tx, pending, [], [], more=False))
    waiting = msgspec.structs.replace(task, state=TaskState.PENDING)
    await database.write(lambda tx: step_store.stepped(tx, after, [waiting], [], more=False))
    (kept,) = await database.read(lambda tx: store.tasks_of(tx, run.id))
    assert kept.state is TaskState.RUNNING
    assert (await database.read(lambda tx: store.get(tx, run.id))).state is RunState.RUNNING
