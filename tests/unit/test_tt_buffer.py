"""What tt keeps for a server that is away: memory, then a file, then a count."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from quarterdeck.tt import spool as spools
from quarterdeck.tt.buffer import Buffer
from quarterdeck.tt.handover import DROPPED, OUTPUT
from quarterdeck.tt.spool import Spool, left_behind
from quarterdeck.wire.trace import decode_frames

KEY = "0123456789abcdef" * 2
HEADER = {"begin": {"key": KEY}, "place": {"url": "http://127.0.0.1:1", "token": "secret"}}
PIECE = 4 << 20


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def made(*, memory: int = 1 << 20, disk: int = 1 << 20) -> tuple[Buffer, Spool]:
    spool = Spool(KEY, HEADER)
    return Buffer(spool, memory=memory, disk=disk), spool


def told(buffer: Buffer) -> tuple[dict[str, bytes], list[tuple[str, int, int]]]:
    """All that is in a buffer, taken out piece by piece: bytes by stream, and drops."""
    found = {"stdout": b"", "stderr": b""}
    drops = []
    while data := buffer.peek(PIECE, 0.0):
        for one in decode_frames(data):
            assert one.offset == len(found[one.stream])
            found[one.stream] += one.data
            if one.dropped:
                drops.append((one.stream, one.offset, one.dropped))
        buffer.pop(len(data))
    return found, drops


def test_what_fits_stays_in_memory_and_comes_out_in_order(state: Path) -> None:
    buffer, _ = made()
    buffer.put(0, 1, b"a" * 10)
    buffer.put(1, 2, b"b" * 20)
    buffer.put(0, 3, b"c")
    buffer.finish(b"0 0 4", 4)
    assert told(buffer) == ({"stdout": b"a" * 10 + b"c", "stderr": b"b" * 20}, [])
    assert buffer.drained() and buffer.end == b"0 0 4 11 20"
    assert not list(state.rglob("*.spool"))


def test_what_does_not_fit_moves_to_a_private_file_with_all_before_it() -> None:
    buffer, spool = made(memory=1000)
    pieces = [bytes((65 + at,)) * 300 for at in range(20)]
    for at, piece in enumerate(pieces):
        buffer.put(0, at, piece)
    assert stat.S_IMODE(os.stat(spool.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(spool.path)).st_mode) == 0o700
    buffer.finish(b"3 0 9", 9)
    assert told(buffer)[0]["stdout"] == b"".join(pieces)
    assert buffer.drained() and buffer.end == b"3 0 9 6000 0"
    spool.remove()
    assert not os.path.exists(spool.path)


def test_a_file_that_was_drained_is_used_again_from_its_beginning() -> None:
    buffer, spool = made(memory=100)
    for round_ in range(3):
        for _ in range(5):
            buffer.put(0, round_, b"x" * 100)
        data = buffer.peek(PIECE, 0.0)
        assert sum(len(one.data) for one in decode_frames(data)) == 500
        buffer.pop(len(data))
        assert spool.size == 0
    assert buffer.kept == [1500, 0]
    spool.remove()


def test_beyond_the_file_bytes_are_counted_where_they_are_missing() -> None:
    buffer, _ = made(memory=100, disk=1000)
    for _ in range(5):
        buffer.put(0, 1, b"x" * 300)
    data = buffer.peek(PIECE, 0.0)
    buffer.pop(len(data))
    buffer.put(0, 2, b"after")
    buffer.put(1, 2, b"y" * 2000)
    buffer.finish(b"0 0 3", 3)
    rest = decode_frames(buffer.peek(PIECE, 0.0))
    assert len(data) == 3 * 322
    assert [(one.stream, one.offset, one.dropped, one.data) for one in rest] == [
        ("stdout", 900, 600, b""),
        ("stdout", 900, 0, b"after"),
        ("stderr", 0, 2000, b""),
    ]


def test_what_was_dropped_leaves_one_hole_and_no_crumbs() -> None:
    buffer, _ = made(memory=100, disk=1000)
    for size in (300, 300, 300, 300, 10, 300, 10):
        buffer.put(0, 1, b"x" * size)
    buffer.finish(b"0 0 3", 3)
    assert told(buffer) == ({"stdout": b"x" * 900, "stderr": b""}, [("stdout", 900, 620)])


def test_a_full_disk_counts_and_does_not_fail(state: Path) -> None:
    state.joinpath("tt").write_text("no directory")
    buffer, _ = made(memory=100)
    buffer.put(0, 1, b"x" * 30)
    buffer.put(0, 1, b"y" * 300)
    assert not buffer.to_file()
    buffer.finish(b"0 0 1", 1)
    assert told(buffer) == ({"stdout": b"x" * 30, "stderr": b""}, [("stdout", 30, 300)])


def test_the_file_of_a_killed_sender_is_taken_by_one_and_read_to_its_last_whole_frame() -> None:
    buffer, spool = made()
    buffer.put(0, 1, b"first")
    buffer.put(1, 1, b"second")
    assert buffer.to_file()
    buffer.put(0, 1, b"third")
    assert [Spool.take(path) for path in left_behind()] == [None]  # its sender lives
    spool.release()
    with open(spool.path, "ab") as file:
        file.write(b"\x01\x00torn")
    (path,) = left_behind()
    found = Spool.take(path)
    assert found is not None and found.header == HEADER
    assert Spool.take(path) is None
    later = Buffer(found, memory=0, disk=0)
    assert told(later)[0] == {"stdout": b"firstthird", "stderr": b"second"}
    assert later.drained() and later.end == b""
    found.remove()
    assert left_behind() == []


def test_what_the_server_has_already_is_not_sent_again() -> None:
    buffer, _ = made()
    for at in range(4):
        buffer.put(0, at, b"x" * 10)
    buffer.skip({0: 25, 1: 0})
    frames = decode_frames(buffer.peek(PIECE, 0.0))
    assert [one.offset for one in frames] == [20, 30]


def test_a_file_that_nobody_could_deliver_for_a_week_is_removed() -> None:
    buffer, spool = made()
    buffer.put(0, 1, b"x")
    buffer.to_file()
    spool.release()
    os.utime(spool.path, (1, 1))
    assert [os.path.exists(path) for path in left_behind()] in ([], [False])
    assert spools.used() == 0


def test_kinds_are_those_of_the_upload() -> None:
    assert (OUTPUT, DROPPED) == (1, 2)
