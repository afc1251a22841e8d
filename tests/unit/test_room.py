"""One sentence says that a disk is too full for new work, wherever it is."""

from __future__ import annotations

import os
from pathlib import Path

from quarterdeck.core.room import MIB, room
from quarterdeck.service import free_bytes


def test_at_the_limit_there_is_room_and_below_it_a_sentence_with_place_and_figures() -> None:
    assert room(64 * MIB, 64, "/data") == ""
    told = room(64 * MIB - 1, 64, "/data")
    assert "/data has only 63 MiB free (needs 64)" in told and told.endswith("freed.")
    assert room(0, 0, "/data") == ""


def test_what_is_free_leaves_out_what_only_root_may_fill(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    assert 0 < free_bytes(tmp_path) <= disk.f_bfree * disk.f_frsize
