"""What a fleet costs at the very least: plain requests to its nodes, and its rows in a file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from bench import rigs
from bench.agents import ECHO
from quarterdeck.core.ids import RANDOM_BYTES
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.service import Services, SystemClock, entropy, jitter

BATCH = 500


async def echoes(up: rigs.Up, nodes: Sequence[str], rounds: int) -> list[float]:
    """The floor of the wire: an empty request to every node, until all have answered."""
    clock = SystemClock()
    services = Services(lambda *_: None, clock)
    authority = Authority.open(up.data / "keys")
    login = Identity.open(up.data / "bench.nk")
    name = "bench" + entropy(RANDOM_BYTES).hex()

    async def jwt() -> str:
        now = int(clock.now().timestamp())
        return authority.mint_server(name, login.public_key, now=now, ttl_s=600)

    fabric = NatsFabric(
        [up.ready["fabric_url"]],
        name,
        jwt_source=jwt,
        signer=login.sign,
        spawn=services.spawn,
        random=jitter,
    )
    await fabric.start()
    took = []
    try:
        for _ in range(rounds):
            began = time.perf_counter()
            asked = (fabric.request(f"cmd.{n}.{ECHO}", b"", timeout_s=60.0) for n in nodes)
            await asyncio.gather(*asked)
            took.append((time.perf_counter() - began) * 1000)
    finally:
        await fabric.stop()
        await services.stop()
    return took


def plain_rows(folder: Path, count: int, rounds: int) -> list[float]:
    """The floor of the record: per task two rows written and each changed twice, in batches."""
    path = folder / "floor.sqlite3"
    took = []
    for _ in range(rounds):
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path)
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.execute("create table t (id text primary key, node text, state text, data blob)")
        began = time.perf_counter()
        ids = [f"{kind}-{at:06d}" for at in range(count) for kind in ("task", "attempt")]
        for at in range(0, len(ids), BATCH):
            part = [(id, id, "queued", b"x" * 150) for id in ids[at : at + BATCH]]
            database.executemany("insert into t values (?, ?, ?, ?)", part)
            database.commit()
        for state in ("running", "ended"):
            for at in range(0, len(ids), BATCH):
                part2 = [(state, b"y" * 150, id) for id in ids[at : at + BATCH]]
                database.executemany("update t set state = ?, data = ? where id = ?", part2)
                database.commit()
        took.append((time.perf_counter() - began) * 1000)
        database.close()
    path.unlink()
    return took
