"""What migrations lead to, and what they do with the rows that are there, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import column, insert, inspect, table, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from quarterdeck.core.model import Counts
from quarterdeck.core.states import TaskState
from quarterdeck.store import migrate
from quarterdeck.store import run as store
from quarterdeck.store.base import Database, Tx
from tests.contracts.backends import BACKENDS, on_sqlite

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


def writer(backend: str, place: Path) -> Engine:
    """The engine of a database that was not started."""
    made: Any = BACKENDS[backend](place)
    engine: Engine = made._writer
    return engine


def shape_of(engine: Engine) -> dict[str, Any]:
    """Of each table what does not depend on the order in which it was made."""
    found = inspect(engine)
    return {
        name: {
            "columns": sorted(
                (each["name"], repr(each["type"]), each["nullable"], _default(each["default"]))
                for each in found.get_columns(name)
            ),
            "key": found.get_pk_constraint(name),
            "indexes": _by_name(found.get_indexes(name)),
            "unique": _by_name(found.get_unique_constraints(name)),
            "foreign": _by_name(found.get_foreign_keys(name)),
            "checks": _by_name(found.get_check_constraints(name)),
        }
        for name in found.get_table_names()
    }


def _default(text: str | None) -> str | None:
    """SQLite keeps the spelling, and has no flags other than numbers."""
    return {"false": "0", "true": "1"}.get(text, text) if text is not None else None


def _by_name(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {part["name"]: {key: _spelled(value) for key, value in part.items()} for part in parts}


def _spelled(value: object) -> str:
    """Conditions of partial indexes are objects that compare by identity."""
    if isinstance(value, dict):
        return str(sorted((key, str(each)) for key, each in value.items()))
    return str(value)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_empty_database_gets_at_once_what_the_migrations_lead_to(
    backend: str, tmp_path: Path
) -> None:
    for name in ("once", "steps"):
        (tmp_path / name).mkdir()
    once, steps = (writer(backend, tmp_path / name) for name in ("once", "steps"))
    await asyncio.to_thread(command.upgrade, migrate.configuration(steps), "head")
    await asyncio.to_thread(migrate.check, steps)
    assert await asyncio.to_thread(migrate._made_at_once, once, migrate._newest())
    await asyncio.to_thread(migrate.upgrade, once)
    found = await asyncio.to_thread(shape_of, once)
    assert {"runs", "alembic_version"} < set(found)
    assert found == await asyncio.to_thread(shape_of, steps)
    await asyncio.to_thread(migrate.check, once)
    for engine in (once, steps):
        engine.dispose()


async def test_a_start_on_an_empty_database_does_without_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "upgrade", lambda *_: pytest.fail("Alembic was asked"))
    for _ in range(2):
        made = on_sqlite(tmp_path)
        await made.start()
        await made.stop()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_view_named_like_a_table_is_an_error_and_nothing_is_made(
    backend: str, tmp_path: Path
) -> None:
    engine = writer(backend, tmp_path)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW leases AS SELECT 1 AS one"))
    with pytest.raises(DBAPIError, match="exists"):
        await asyncio.to_thread(migrate.upgrade, engine)
    assert shape_of(engine) == {}
    engine.dispose()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_database_with_other_tables_is_not_taken_for_an_empty_one(
    backend: str, tmp_path: Path
) -> None:
    engine = writer(backend, tmp_path)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE guests (name TEXT)"))
    assert not await asyncio.to_thread(migrate._made_at_once, engine, "0001")
    await asyncio.to_thread(migrate.upgrade, engine)
    assert {"guests", "runs"} < set(shape_of(engine))
    engine.dispose()


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
