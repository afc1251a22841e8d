"""What migrations do with the rows that are there, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import column, insert, table
from sqlalchemy.engine import Engine

from quarterdeck.core.model import Counts
from quarterdeck.core.states import TaskState
from quarterdeck.store import migrate
from quarterdeck.store import run as store
from quarterdeck.store.base import Database, Tx
from tests.contracts.backends import BACKENDS

pytestmark = pytest.mark.anyio

OPEN, ENDED = "06d0000000000001", "06d0000000000002"


def fill(engine: Engine) -> None:
    """A run of each kind as 0005 had them: every task with its attempt, so that none was queued."""
    order = {"hash": "0" * 64, "data": msgspec.msgpack.encode({"argv": ["true"]})}
    rows = [
        _run(OPEN, "running", pending=2, running=1),
        _run(ENDED, "ended", succeeded=1),
    ]
    tasks = [_task(OPEN, at, state) for at, state in enumerate(("pending", "pending", "running"))]
    tasks.append(_task(ENDED, 0, "ended"))
    with engine.begin() as connection:
        for name, values in (("orders", [order]), ("runs", rows), ("tasks", tasks)):
            target = table(name, *(column(key) for key in values[0]))
            connection.execute(insert(target), values)


def _run(id: str, state: str, **counts: int) -> dict[str, Any]:
    told = dict.fromkeys(("pending", "running", "succeeded", "failed"), 0) | counts
    return {
        "id": id,
        "namespace": "default",
        "origin": "run",
        "title": "",
        "target": "all",
        "order_hash": "0" * 64,
        "created_at": 1,
        "created_by": "t",
        "state": state,
        "outcome": "succeeded" if state == "ended" else None,
        "stop_asked": 0,
        "counts": msgspec.msgpack.encode(told | {"total": sum(counts.values())}),
        "version": 3,
    }


def _task(run: str, position: int, state: str) -> dict[str, Any]:
    return {
        "id": f"{run}-{position}",
        "run": run,
        "position": position,
        "node": f"n{position}",
        "node_name": f"web{position}",
        "state": state,
        "changed": 1,
    }


@pytest.mark.parametrize("backend", BACKENDS)
async def test_tasks_that_waited_before_there_were_windows_are_queued(
    backend: str, tmp_path: Path
) -> None:
    made: Any = BACKENDS[backend](tmp_path)
    old = migrate.configuration(made._writer)
    await asyncio.to_thread(command.upgrade, old, "0005")
    await asyncio.to_thread(fill, made._writer)
    await made.start()
    try:
        await _as_expected(made)
    finally:
        await made.stop()


async def _as_expected(database: Database) -> None:
    def read(tx: Tx) -> dict[str, tuple[Counts, list[str]]]:
        return {
            id: (store.get(tx, id).counts, [task.state for task in store.tasks_of(tx, id)])
            for id in (OPEN, ENDED)
        }

    found = await database.read(read)
    queued, running = TaskState.QUEUED, TaskState.RUNNING
    assert found[OPEN] == (Counts(total=3, queued=2, running=1), [queued, queued, running])
    assert found[ENDED] == (Counts(total=1, succeeded=1), [TaskState.ENDED])
