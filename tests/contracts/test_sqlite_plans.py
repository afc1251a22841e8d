"""On SQLite, what is asked all the time looks only at the rows that are open: never at history."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from quarterdeck.store import node as node_store
from quarterdeck.store import piece as piece_store
from quarterdeck.store import run as run_store
from quarterdeck.store import step as step_store
from quarterdeck.store import trace as trace_store
from quarterdeck.store.base import Tx
from quarterdeck.store.sqlite import SqliteDatabase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ASKED: dict[str, tuple[Callable[[Tx], Any], str]] = {
    "fresh attempts of a run": (lambda tx: step_store.fresh(tx, "r", 10), "ix_attempts_fresh"),
    "logs to seal": (lambda tx: run_store.to_seal(tx, 10, ()), "ix_attempts_to_seal"),
    "open attempts": (lambda tx: run_store.open_attempts(tx, ["n"]), "ix_attempts_open"),
    "open attempts of removed nodes": (run_store.open_of_removed, "ix_attempts_open"),
    "nodes in use": (run_store.nodes_with_open_attempts, "ix_attempts_open"),
    "removed nodes": (node_store.removed, "ix_nodes_removed"),
    "load of nodes": (run_store.open_counts, "ix_attempts_open"),
    "old offers": (lambda tx: run_store.expired_offers(tx, NOW), "ix_attempts_unoffered"),
    "later attempts": (lambda tx: run_store.due_nodes(tx, NOW, NOW), "ix_attempts_later"),
    "caches to purge": (lambda tx: run_store.to_purge(tx, NOW, 10), "ix_attempts_to_purge"),
    "runs that are due": (lambda tx: step_store.due_runs(tx, 10), "ix_runs_due"),
    "beats of traces": (trace_store.beats, "ix_traces_open"),
    "traces to archive": (lambda tx: trace_store.to_seal(tx, NOW, 10), "ix_traces_over"),
    "traces to forget": (lambda tx: trace_store.expired(tx, NOW, 10), "ix_traces_over"),
    "namespaces with ephemeral traces": (trace_store.namespaces, "ix_traces_over"),
    "late runs": (lambda tx: step_store.overdue_runs(tx, NOW, 10), "ix_runs_deadline"),
}


FROM_THE_BYTE = "sqlite_autoindex_trace_pieces_1 (trace=? AND stream=? AND start>?"
ASKED["pieces of a trace"] = (
    lambda tx: piece_store.page(tx, "t", "stdout", 7, 10),
    FROM_THE_BYTE,
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(tmp_path / "record.sqlite3")
    await opened.start()
    yield opened
    await opened.stop()


@pytest.mark.parametrize("what", ASKED)
async def test_a_partial_index_answers_it(database: SqliteDatabase, what: str) -> None:
    ask, index = ASKED[what]

    def explained(tx: Tx) -> list[str]:
        asked: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            asked.append((statement, values))

        event.listen(tx, "before_cursor_execute", note)
        ask(tx)
        event.remove(tx, "before_cursor_execute", note)
        statement, values = asked[0]
        plan = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        return [row.detail for row in plan]

    (search, *_) = await database.read(explained)
    assert f"INDEX {index}" in search
