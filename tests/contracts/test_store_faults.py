"""The store in real trouble: killed at any moment, on a full disk, where it can't write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from quarterdeck.errors import Unavailable
from quarterdeck.store.base import Tx
from quarterdeck.store.postgres import PostgresDatabase
from quarterdeck.store.sqlite import SqliteDatabase
from quarterdeck.store.tables import orders
from tests.contracts.backends import BACKENDS, session

pytestmark = pytest.mark.anyio

DEADLINE_S = 30.0
PIECE = 64 << 10

# Writes rows from several coroutines for ever, and prints the name of each that was acknowledged.
WRITER = """
    import asyncio, os, sys
    from pathlib import Path
    from sqlalchemy import insert
    from quarterdeck.settings import Secret
    from quarterdeck.store.database import open_database
    from quarterdeck.store.tables import orders

    async def write(database, name):
        number = 0
        while True:
            word = f"{name}-{number}"
            row = {"hash": word, "data": word.encode() * 100}
            await database.write(lambda tx: tx.execute(insert(orders).values(**row)) and None)
            os.write(1, (word + "\\n").encode())
            number += 1

    async def main():
        database = open_database(Secret(sys.argv[1]), Path(sys.argv[2]))
        await database.start()
        await asyncio.gather(*(write(database, f"{sys.argv[3]}-{each}") for each in range(8)))

    asyncio.run(main())
"""


def acknowledged(url: str, path: Path, name: str, lines: int) -> set[str]:
    """What a writer acknowledged until it was killed, `lines` lines after its first word."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), url, str(path), name],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child.stdout as out:
        try:
            words = [out.readline() for _ in range(lines)]
        finally:
            child.kill()
        words += out.readlines()
    assert child.wait(DEADLINE_S) == -signal.SIGKILL
    return {word.decode().strip() for word in words if word.endswith(b"\n")}


def integrity(tx: Tx) -> str:
    return str(tx.scalar(text("PRAGMA integrity_check")))


def all_rows(tx: Tx) -> dict[str, bytes]:
    return {row.hash: row.data for row in tx.execute(select(orders))}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_all_that_was_acknowledged_is_there_after_kill_9(
    backend: str, tmp_path: Path
) -> None:
    database = BACKENDS[backend](tmp_path)
    url = session[0].at(tmp_path) if isinstance(database, PostgresDatabase) else ""
    wanted: set[str] = set()
    for round, lines in enumerate((1, 7, 60, 150)):
        place = tmp_path / "quarterdeck.db"
        wanted |= await asyncio.to_thread(acknowledged, url, place, f"r{round}", lines)
        database = BACKENDS[backend](tmp_path)
        await database.start()
        try:
            found = await database.read(all_rows)
            assert url or await database.read(integrity) == "ok"
        finally:
            await database.stop()
        assert wanted <= found.keys()
        assert all(data == word.encode() * 100 for word, data in found.items())
    assert len(wanted) >= 218


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; skips where none may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a tmpfs (CAP_SYS_ADMIN) and mount(8): {error}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=DEADLINE_S)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=DEADLINE_S)


def put(word: str, size: int = PIECE, pieces: int = 1) -> Callable[[Tx], str]:
    def unit(tx: Tx) -> str:
        for piece in range(pieces):
            row = {"hash": f"{word}.{piece}", "data": os.urandom(size)}
            tx.execute(insert(orders).values(**row))
        return word

    return unit


def words(tx: Tx) -> set[str]:
    return {word.rpartition(".")[0] for word in tx.scalars(select(orders.c.hash))}


async def fill(database: SqliteDatabase) -> tuple[set[str], Unavailable]:
    """Write until the disk is full: what was acknowledged, and the error."""
    done: set[str] = set()
    for number in range(100):
        try:
            done.add(await database.write(put(f"w{number}")))
        except Unavailable as error:
            return done, error
    raise AssertionError("the disk never got full")


async def test_a_full_disk_is_said_loses_nothing_and_ends_when_space_is_free(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700 << 10))
    database = SqliteDatabase(small_disk / "x.db")
    await database.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            done, error = await fill(database)
            assert error.code == "database"
            assert "is full; free some space" in error.message
            assert str(small_disk / "x.db") in error.message
            with pytest.raises(Unavailable):
                await database.write(put("still full", size=1 << 20))
            assert await database.read(words) == done
            ballast.unlink()
            assert await database.write(put("free again")) == "free again"
        assert await database.read(words) == done | {"free again"}
        assert await database.read(integrity) == "ok"
    finally:
        await database.stop()


async def test_a_unit_too_large_for_memory_and_disk_harms_only_itself(small_disk: Path) -> None:
    database = SqliteDatabase(small_disk / "x.db")
    await database.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Unavailable):
                await database.write(put("large", size=1 << 20, pieces=40))
            assert await database.write(put("small")) == "small"
            assert await database.read(words) == {"small"}
    finally:
        await database.stop()


async def test_a_unit_too_large_for_memory_and_disk_is_told_that_it_is_full(
    small_disk: Path,
) -> None:
    database = SqliteDatabase(small_disk / "x.db")
    await database.start()
    try:
        with pytest.raises(Unavailable, match="is full; free some space"):
            await database.write(put("large", size=1 << 20, pieces=40))
    finally:
        await database.stop()


async def test_a_disk_too_full_for_the_schema_is_said_at_the_start(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    database = SqliteDatabase(small_disk / "x.db")
    with pytest.raises(Unavailable, match=r"x\.db"):
        await database.start()
    await database.stop()


@pytest.mark.parametrize("existing", [False, True])
async def test_a_read_only_directory_is_said_at_the_start(small_disk: Path, existing: bool) -> None:
    if existing:
        first = SqliteDatabase(small_disk / "x.db")
        await first.start()
        await first.stop()
    mount("-o", "remount,ro", str(small_disk))
    database = SqliteDatabase(small_disk / "x.db")
    with pytest.raises(Unavailable, match=r"read-only|writable") as caught:
        await database.start()
    assert str(small_disk / "x.db") in caught.value.message
    await database.stop()


async def test_a_missing_directory_and_a_file_that_is_no_database_are_said(
    tmp_path: Path,
) -> None:
    (tmp_path / "text.db").write_text("this is no database, it only looks long enough " * 100)
    for path in (tmp_path / "missing" / "x.db", tmp_path / "text.db"):
        database = SqliteDatabase(path)
        with pytest.raises(Unavailable, match=path.name):
            await database.start()
        await database.stop()
