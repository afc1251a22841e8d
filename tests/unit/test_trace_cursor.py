"""The cursor of a watcher of traces: its text, what it forgets, and what is missing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.ids import run_id
from quarterdeck.core.trace import Dropped, Positions, Start, Trace
from quarterdeck.core.trace_cursor import ALWAYS, Cursor, Missing, Place, missing
from quarterdeck.errors import Invalid

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"{number:016d}" for number in range(100)]
NUMBERS = st.integers(0, 10**12)


@given(st.dictionaries(st.sampled_from(IDS), st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=9))
def test_a_cursor_is_what_its_text_says(places: dict[str, tuple[int, int, int]]) -> None:
    cursor = Cursor()
    for id, (out, err, dropped) in places.items():
        place = cursor.place(id)
        assert place is not None
        place.positions, place.told, place.dropped = {"stdout": out, "stderr": err}, 2, dropped
    text = cursor.text()
    assert text is not None
    again = Cursor.parse(text)
    assert again.text() == text
    for id, (out, err, dropped) in places.items():
        place = again.place(id)
        assert place is not None and place.positions == {"stdout": out, "stderr": err}
        assert (place.told, place.dropped) == (2, dropped)


def made(at_s: float, number: int = 0) -> str:
    return run_id(1_790_000_000_000 + int(at_s * 1000), number.to_bytes(4))


def told(cursor: Cursor, *ids: str) -> None:
    """All about these traces was told."""
    for id in ids:
        place = cursor.place(id)
        assert place is not None
        place.told, place.final = 2, True


def parsed(cursor: Cursor) -> Cursor:
    text = cursor.text()
    assert text is not None
    return Cursor.parse(text)


def test_what_was_told_for_good_needs_no_place_in_the_cursor() -> None:
    cursor = Cursor()
    told(cursor, made(0), made(2))
    assert cursor.place(made(1)) is not None
    told(cursor, made(1000))
    text = cursor.text()
    assert text is not None and text.startswith(f"{made(2)};") and made(0) not in text
    again = Cursor.parse(text)
    assert again.place(made(0)) is again.place(made(2)) is None
    assert again.under_way() == [made(1)]
    recent = again.place(made(1000))
    assert recent is not None and recent.final


def test_a_trace_that_is_seen_after_younger_ones_is_told() -> None:
    """Its id is a time of another server, whose clock is behind."""
    cursor = Cursor()
    told(cursor, made(10))
    for known in (cursor, parsed(cursor)):
        place = known.place(made(5))
        assert place is not None and not place.final


def test_a_cursor_does_not_grow_with_what_is_over() -> None:
    cursor = Cursor()
    assert cursor.place(made(0)) is not None  # goes on all the time
    for number in range(1, 2000):
        told(cursor, made(number / 10, number))
        text = cursor.text()
        assert text is not None and len(text) < 600
    again = parsed(cursor)
    assert again.under_way() == [made(0)]
    assert again.place(made(1, 10)) is None


def test_the_ids_of_very_many_traces_cost_no_more_than_those_of_few() -> None:
    cursor = Cursor()
    for id in IDS:
        cursor.place(id)
    texts = [cursor.text() for _ in range(1000)]
    assert sum(text is not None for text in texts) == 1000 // len(IDS)
    assert len(IDS) > ALWAYS


@pytest.mark.parametrize("text", ["x", ";1:2,3,4,5", "0;", f";{IDS[0]}:1,2", f";{IDS[0]}:-1,2,3,4"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Cursor.parse(text)


def test_drops_are_told_where_they_happened_and_once() -> None:
    place = Place()
    known = (
        Dropped(stream="stdout", offset=0, count=7),
        Dropped(stream="stdout", offset=10, count=5),
    )
    assert [one.count for one in place.drops(known)] == [7]
    place.positions["stdout"] = 10
    assert [(one.start, one.count, one.reason) for one in place.drops(known)] == [
        (10, 5, "dropped")
    ]
    grown = (known[0], Dropped(stream="stdout", offset=10, count=9))
    assert [one.count for one in place.drops(grown)] == [4]
    assert not list(place.drops(grown))


def test_a_restart_of_the_fabric_is_told_apart_from_a_window_that_is_full() -> None:
    record = Trace(
        id=IDS[0],
        namespace="default",
        name="deploy",
        sender="web-1",
        key="0" * 32,
        by="t",
        kept=False,
        start=Start(),
        created_at=NOW,
        heard_at=NOW,
        forgotten=Positions(stdout=100),
    )
    assert list(missing(record, "stdout", 40, 250)) == [
        Missing("stdout", 40, 100, 60, "fabric"),
        Missing("stdout", 100, 250, 150, "window"),
    ]
    assert list(missing(record, "stderr", 0, 5)) == [Missing("stderr", 0, 5, 5, "window")]
    assert not list(missing(record, "stdout", 7, 7))
