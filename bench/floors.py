"""What a fleet costs at the very least: plain requests to its nodes, its rows in a file, and what a
process takes that only receives its beats (`python -m bench.floors DATA URL`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench import rigs
from bench.agents import ECHO
from bench.idle import cpu_s
from quarterdeck.core.ids import RANDOM_BYTES
from quarterdeck.fabric.base import Message
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.service import Services, SystemClock, entropy, jitter
from quarterdeck.wire import subjects

BATCH = 500


@asynccontextmanager
async def joined(data: Path, url: str) -> AsyncIterator[NatsFabric]:
    """The fabric of a fleet, with the rights of a server."""
    clock = SystemClock()
    services = Services(lambda *_: None, clock)
    authority = Authority.open(data / "keys")
    login = Identity.open(data / f"bench-{entropy(4).hex()}.nk")
    name = "bench" + entropy(RANDOM_BYTES).hex()

    async def jwt() -> str:
        now = int(clock.now().timestamp())
        return authority.mint_server(name, login.public_key, now=now, ttl_s=600)

    fabric = NatsFabric(
        [url], name, jwt_source=jwt, signer=login.sign, spawn=services.spawn, random=jitter
    )
    await fabric.start()
    try:
        yield fabric
    finally:
        await fabric.stop()
        await services.stop()


async def echoes(up: rigs.Up, nodes: Sequence[str], rounds: int) -> list[float]:
    """The floor of the wire: an empty request to every node, until all have answered."""
    took = []
    async with joined(up.data, up.ready["fabric_url"]) as fabric:
        for _ in range(rounds):
            began = time.perf_counter()
            asked = (fabric.request(f"cmd.{n}.{ECHO}", b"", timeout_s=60.0) for n in nodes)
            await asyncio.gather(*asked)
            took.append((time.perf_counter() - began) * 1000)
    return took


def ear(up: rigs.Up, seconds: float) -> float:
    """The floor of the beats: percent of a core of a process that does nothing but receive them."""
    words = [sys.executable, "-m", "bench.floors", str(up.data), up.ready["fabric_url"]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("The listener of bench.floors did not start.")
        before = cpu_s(process.pid)
        threading.Event().wait(seconds)
        return 100 * (cpu_s(process.pid) - before) / seconds


async def listen(data: Path, url: str) -> None:
    """Hear all beats until the input ends; says so when the first has come."""
    first = asyncio.Event()

    def heard(_: Message) -> None:
        first.set()

    async with joined(data, url) as fabric:
        await fabric.subscribe(subjects.ALL_BEATS, heard)
        await first.wait()
        print("listening", flush=True)
        await asyncio.to_thread(sys.stdin.read)


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


if __name__ == "__main__":
    asyncio.run(listen(Path(sys.argv[1]), sys.argv[2]))
