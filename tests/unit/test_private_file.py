"""Files that must survive a crash: written whole, private, and nothing is left of a failure."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from quarterdeck.service import lock_directory, write_private


def test_a_file_is_replaced_whole_and_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and long")
    path.chmod(0o644)
    with path.open("rb") as reader:
        write_private(path, b"new")
        assert reader.read() == b"old and long", "a reader must not see it change"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_and_name_are_on_the_disk_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    real = os.fsync

    def record(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), (tmp_path / "file").exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    write_private(tmp_path / "file", b"new")
    assert synced == [(False, False), (True, True)]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_directory_is_locked_once_at_a_time(tmp_path: Path) -> None:
    first = lock_directory(tmp_path)
    assert first is not None
    assert lock_directory(tmp_path) is None
    os.close(first)
    again = lock_directory(tmp_path)
    assert again is not None
    os.close(again)
