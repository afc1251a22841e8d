"""The cursor of a watcher: what it holds, and its text."""

from __future__ import annotations

import pytest

from quarterdeck.control.watch import CURSOR_ENTRIES, Cursor
from quarterdeck.errors import Invalid

RUN = "071bfcjj91e64x52"


def test_a_cursor_comes_back_from_its_text() -> None:
    cursor = Cursor(7)
    cursor.reach(f"{RUN}-0-1", "stdout", 5)
    cursor.reach(f"{RUN}-3-2", "stderr", 9)
    text = cursor.text()
    assert text == "7;0-1:5,0;3-2:0,9"
    again = Cursor.parse(RUN, text)
    assert again.version == 7
    assert again.positions == cursor.positions


def test_looking_at_an_attempt_leaves_nothing_behind() -> None:
    cursor = Cursor()
    assert cursor.of(f"{RUN}-0-1") == {"stdout": 0, "stderr": 0}
    assert not cursor.positions


def test_too_many_attempts_have_no_text() -> None:
    cursor = Cursor()
    for number in range(CURSOR_ENTRIES):
        cursor.reach(f"{RUN}-{number}-1", "stdout", 1)
    assert cursor.text() is not None
    cursor.reach(f"{RUN}-{CURSOR_ENTRIES}-1", "stdout", 1)
    assert cursor.text() is None


@pytest.mark.parametrize("text", ["", "x", "1;", "1;0-1:5", "1;0-1:5,-1", "1;a-1:5,5"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Cursor.parse(RUN, text)
