"""Facts a second into SQLite and PostgreSQL: the batches of the ingest loop, committed and synced.

Each turn takes the facts of one new run (every attempt running, then ended) through `Ingest.apply`
in batches, by turns into each database. The floor is the same number of plain rows inserted in
batches of the same size. PostgreSQL is one of its own on this disk, with fsync, over loopback TCP.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from bench import rigs
from quarterdeck.control.changes import Changes
from quarterdeck.control.ingest import AttemptEvent, Ingest
from quarterdeck.control.moves import Moves
from quarterdeck.control.steady import Steady
from quarterdeck.core.attempt import Reported
from quarterdeck.core.ids import RANDOM_BYTES, attempt_id, run_id, task_id
from quarterdeck.core.model import Attempt, Counts, Order, Run, Snapshot, Task
from quarterdeck.core.states import Phase, TaskState
from quarterdeck.service import Poke, Services, SystemClock
from quarterdeck.settings import Secret
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.store.database import open_database
from quarterdeck.store.tables import rejected
from quarterdeck.telemetry import Telemetry
from tests.contracts.postgres_server import DURABLE, PACKAGE, programs, serving

CLAIM = "store"
BATCH = 500
TASKS = 5000
TURNS = 5
UNASKED: Any = None  # `Ingest.apply` asks no fabric


class Contestant:
    """One database and the ingest loop's way into it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._clock = SystemClock()
        steady = Steady(database=database, clock=self._clock)
        self._ingest = Ingest(
            database=database,
            fabric=UNASKED,
            clock=self._clock,
            telemetry=Telemetry(),
            steady=steady,
            services=Services(lambda *_: None, self._clock),
            believes=lambda _node, _session: True,
            moves=Moves(
                changes=Changes("bench", lambda: True),
                telemetry=Telemetry(),
                steady=steady,
                dispatch=Poke(),
                seal=Poke(),
                place=Poke(),
                full=set(),
            ),
        )

    async def created(self, tasks: int) -> list[Attempt]:
        """A new run; its attempts."""
        now = self._clock.now()
        id = run_id(int(now.timestamp() * 1000), os.urandom(RANDOM_BYTES))
        made = [
            Task(
                id=task_id(id, at),
                run=id,
                position=at,
                node=f"n{at}",
                node_name=f"n{at}",
                state=TaskState.QUEUED,
                tries=1,
            )
            for at in range(tasks)
        ]
        tries = [
            Attempt(id=attempt_id(t.id, 1), run=id, task=t.id, node=t.node, number=1, offered=True)
            for t in made
        ]
        run = Run(
            id=id,
            target="all",
            order=Order(argv=("true",)),
            created_at=now,
            created_by="bench",
            counts=Counts(total=tasks, queued=tasks),
        )
        await self.database.write(lambda tx: run_store.create(tx, run, made, tries, None))
        return tries

    async def facts(self, attempts: list[Attempt], batch: int) -> None:
        """Every attempt running, then ended."""
        now = self._clock.now()
        for revision, phase in ((1, Phase.RUNNING), (2, Phase.ENDED)):
            events: list[AttemptEvent] = [
                (a.id, a.node, Reported(snapshot=_snapshot(a.id, revision, phase, now)))
                for a in attempts
            ]
            for start in range(0, len(events), batch):
                await self._ingest.apply(events[start : start + batch])

    async def rows(self, count: int, batch: int) -> None:
        """The floor: rows of the size of a fact."""
        row = {"subject": "ev.node.attempt", "data": b"x" * 200, "error": "", "at": 0}

        def unit(tx: Tx) -> None:
            tx.execute(insert(rejected), [row] * batch)

        for _ in range(count // batch):
            await self.database.write(unit)


def _snapshot(attempt: str, revision: int, phase: Phase, now: datetime) -> Snapshot:
    ended = phase is Phase.ENDED
    return Snapshot(
        attempt=attempt,
        revision=revision,
        phase=phase,
        accepted_at=now,
        started_at=now,
        ended_at=now if ended else None,
        exit_code=0 if ended else None,
    )


async def rate(work: Awaitable[None], count: int) -> float:
    """How many a second."""
    began = time.perf_counter()
    await work
    return count / (time.perf_counter() - began)


async def measure(folder: Path, url: str, tasks: int, turns: int) -> rigs.Report:
    report = rigs.Report("store", CLAIM, f"facts a second, batches of {BATCH}")
    opened = {
        "SQLite": open_database(Secret(""), folder / "bench.sqlite3"),
        "PostgreSQL": open_database(Secret(url), folder),
    }
    facts: dict[str, list[float]] = {name: [] for name in opened}
    rows: dict[str, list[float]] = {name: [] for name in opened}
    for database in opened.values():
        await database.start()
    try:
        contestants = {name: Contestant(database) for name, database in opened.items()}
        for turn in range(turns + 1):
            for name, one in contestants.items():
                attempts = await one.created(tasks)
                spent = await rate(one.facts(attempts, BATCH), 2 * tasks)
                plain = await rate(one.rows(2 * tasks, BATCH), 2 * tasks)
                if turn:  # the first one warms up
                    facts[name].append(spent)
                    rows[name].append(plain)
    finally:
        for database in opened.values():
            await database.stop()
    for name in opened:
        ours = report.add(f"facts into {name}", facts[name], "/s")
        floor = report.add(f"floor: plain rows into {name}", rows[name], "/s")
        report.compare(f"{name}: facts / plain rows", ours.median / floor.median, None)
    both = [one.median for one in report.figures if one.what.startswith("facts")]
    report.compare("PostgreSQL / SQLite", both[1] / both[0], None)
    return report


def main(quick: bool) -> rigs.Report:
    if programs() is None:
        raise SystemExit(f"bench.store needs the Debian package {PACKAGE}.")
    with tempfile.TemporaryDirectory(prefix="qd-bench-") as name, serving(DURABLE) as server:
        url = server.fresh()
        turns = (BATCH, 1) if quick else (TASKS, TURNS)
        return asyncio.run(measure(Path(name), url, *turns))


if __name__ == "__main__":
    rigs.entry(main)
