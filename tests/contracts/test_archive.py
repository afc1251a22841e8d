"""The archive of logs: any range of any stream equals what was written, inline and as an object."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import zstandard

from quarterdeck.core.model import Attempt, Order, Run, Task
from quarterdeck.errors import Broken
from quarterdeck.store import log as log_store
from quarterdeck.store import run as run_store
from quarterdeck.store.archive import (
    PIECE,
    Archive,
    FrameWriter,
    SealedLog,
    StreamLayout,
    object_key,
)
from quarterdeck.store.base import Database
from tests.contracts.test_store import new_run

pytestmark = pytest.mark.anyio

SIZES = [0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 12345]
ATTEMPT = "0123456789abcdef-0-1"

Keep = Callable[[Archive, Path, bytes], Awaitable[SealedLog]]


def content(size: int) -> bytes:
    """Bytes that compress a little and differ from piece to piece."""
    chance = random.Random(size)
    return b"".join(chance.randbytes(500) + b"line\n" * 100 for _ in range(size // 1000 + 1))[:size]


def written(path: Path, data: bytes) -> StreamLayout:
    """The layout of what a writer was fed in pieces of all sizes."""
    writer = FrameWriter(path)
    chance = random.Random(7)
    position = 0
    while position < len(data):
        step = chance.choice([1, 100, 65536, PIECE, 2 * PIECE + 1])
        writer.feed(data[position : position + step])
        position += step
    assert writer.bytes == len(data)
    return writer.finish()


async def inline(archive: Archive, path: Path, data: bytes) -> SealedLog:
    layout = written(path, data)
    return SealedLog(
        attempt=ATTEMPT, inline={"stdout": path.read_bytes()}, layout={"stdout": layout}
    )


async def stored(archive: Archive, path: Path, data: bytes) -> SealedLog:
    layout = written(path, data)
    await archive.put(object_key(f"r/{ATTEMPT}", "stdout"), path)
    return SealedLog(attempt=ATTEMPT, object=f"r/{ATTEMPT}", layout={"stdout": layout})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive", tmp_path / "work")


@pytest.mark.parametrize("keep", [inline, stored])
@pytest.mark.parametrize("size", SIZES)
async def test_any_range_equals_what_was_written(archive: Archive, keep: Keep, size: int) -> None:
    data = content(size)
    log = await keep(archive, archive.work / "f", data)
    assert log.layout["stdout"].sha256 == hashlib.sha256(data).hexdigest()
    edges = [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, size - 1, size, size + 1, size + PIECE]
    chance = random.Random(size)
    ranges = [(start, chance.choice([1, 2, PIECE, PIECE + 1, 4 * PIECE])) for start in edges]
    ranges += [(chance.randrange(size + 10), chance.randrange(size + 10)) for _ in range(25)]
    for start, length in ranges:
        if start >= 0:
            read = await archive.read(log, "stdout", start, length)
            assert read == data[start : start + length], (start, length)


@pytest.mark.parametrize("keep", [inline, stored])
async def test_what_is_not_there_reads_as_nothing(archive: Archive, keep: Keep) -> None:
    log = await keep(archive, archive.work / "f", b"abc")
    assert await archive.read(log, "stderr", 0, 10) == b""
    assert await archive.read(log, "stdout", 3, 10) == b""
    assert await archive.read(log, "stdout", 0, 0) == b""
    assert await archive.read(log, "stdout", 0, -1) == b""
    assert await archive.read(SealedLog(attempt=ATTEMPT), "stdout", 0, 10) == b""


def test_every_piece_is_a_frame_of_its_own(tmp_path: Path) -> None:
    data = content(2 * PIECE + 5)
    layout = written(tmp_path / "f", data)
    packed = (tmp_path / "f").read_bytes()
    assert len(layout.frames) == 3 and sum(layout.frames) == len(packed)
    last = packed[-layout.frames[-1] :]
    assert zstandard.ZstdDecompressor().decompress(last) == data[2 * PIECE :]


def test_nothing_written_has_the_layout_of_nothing(tmp_path: Path) -> None:
    assert written(tmp_path / "f", b"") == StreamLayout()


def test_a_discarded_file_is_gone_before_and_after_its_end(tmp_path: Path) -> None:
    for finish in (False, True):
        writer = FrameWriter(tmp_path / "f")
        writer.feed(b"abc")
        if finish:
            writer.finish()
        writer.discard()
        writer.discard()
        assert not (tmp_path / "f").exists()


async def test_a_repeated_sealing_replaces_what_an_unfinished_one_left(archive: Archive) -> None:
    await stored(archive, archive.work / "f", b"cut o")
    log = await stored(archive, archive.work / "f", b"the whole")
    assert await archive.read(log, "stdout", 0, 100) == b"the whole"


async def test_a_missing_object_is_broken_and_named(archive: Archive) -> None:
    log = await stored(archive, archive.work / "f", b"abc")
    gone = SealedLog(attempt=ATTEMPT, object="r/gone", layout=log.layout)
    with pytest.raises(Broken, match=r"r/gone/stdout\.zst"):
        await archive.read(gone, "stdout", 0, 3)


DAMAGE = "Archive.read lets errors of zstandard and obstore through"


@pytest.mark.parametrize("damage", [lambda data: b"x" * len(data), lambda data: data[:-3]])
async def test_a_damaged_object_is_broken(
    archive: Archive, damage: Callable[[bytes], bytes]
) -> None:
    log = await stored(archive, archive.work / "f", content(5000))
    path = archive.work / "damaged"
    path.write_bytes(damage((archive.work / "f").read_bytes()))
    await archive.put(object_key(f"r/{ATTEMPT}", "stdout"), path)
    with pytest.raises(Broken):
        await archive.read(log, "stdout", 0, 5000)


def test_an_archive_opened_again_keeps_its_logs_and_clears_its_work(tmp_path: Path) -> None:
    first = Archive(tmp_path / "archive", tmp_path / "work")
    (first.work / "leftover").write_bytes(b"x")
    log = tmp_path / "archive" / "logs" / "kept.zst"
    log.write_bytes(b"x")
    again = Archive(tmp_path / "archive", tmp_path / "work")
    assert list(again.work.iterdir()) == [] and log.exists()


async def test_a_sealed_log_is_recorded_and_a_repeat_replaces_it(database: Database) -> None:
    rows: tuple[Run, list[Task], list[Attempt]] = new_run(0, 2, order=Order(argv=("a",)))
    one, two = (attempt.id for attempt in rows[2])
    layout = {"stdout": StreamLayout(bytes=3, sha256="ab", frames=(1, 2))}
    first = SealedLog(attempt=one, inline={"stdout": b"\0\xff"}, layout=layout)
    again = SealedLog(attempt=one, object="r/x", layout=layout)
    other = SealedLog(attempt=two)
    await database.write(lambda tx: run_store.create(tx, *rows, None))
    await database.write(lambda tx: log_store.save(tx, [first]))
    await database.write(lambda tx: log_store.save(tx, [other]))
    found = await database.read(lambda tx: log_store.load(tx, [one, two, "none"]))
    assert found == {one: first, two: other}
    await database.write(lambda tx: log_store.save(tx, [again]))
    assert await database.read(lambda tx: log_store.load(tx, [one])) == {one: again}
