"""Streams out of chunks, last lines, and both streams in the order in which they were written."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quarterdeck.core.stream import Backwards, Gap, Mark, Segment, Taken, Timeline, splice

thorough = settings(max_examples=300)


@pytest.mark.parametrize(
    ("wanted", "offset", "data", "expected"),
    [
        (0, 0, b"abc", Taken(0, b"abc")),
        (3, 3, b"abc", Taken(3, b"abc")),
        (4, 3, b"abc", Taken(4, b"bc")),
        (5, 3, b"abc", Taken(5, b"c")),
        (6, 3, b"abc", None),
        (9, 3, b"abc", None),
        (2, 3, b"abc", Gap(2, 3)),
        (0, 0, b"", None),
        (0, 5, b"", Gap(0, 5)),
    ],
)
def test_a_chunk_continues_repeats_or_leaves_a_gap(
    wanted: int, offset: int, data: bytes, expected: Taken | Gap | None
) -> None:
    assert splice(wanted, offset, data) == expected


@thorough
@given(st.binary(max_size=60), st.data())
def test_chunks_in_any_order_with_gaps_fetched_give_the_stream(
    stream: bytes, data: st.DataObject
) -> None:
    cuts = st.tuples(st.integers(0, len(stream)), st.integers(0, len(stream)))
    read = b""
    for one, other in [*data.draw(st.lists(cuts, max_size=12)), (0, len(stream))]:
        start, end = min(one, other), max(one, other)
        taken = splice(len(read), start, stream[start:end])
        if isinstance(taken, Gap):
            assert taken == Gap(len(read), start)
            read += stream[taken.start : taken.end]
            taken = splice(len(read), start, stream[start:end])
        if isinstance(taken, Taken):
            assert taken.offset == len(read) and taken.data
            read += taken.data
        assert stream.startswith(read)
    assert read == stream


def lines_of(block: bytes) -> list[bytes]:
    """Lines with their ends; the naive way."""
    return [line for line in block.replace(b"\n", b"\n\0").split(b"\0") if line]


blocks = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b"\xff"]), max_size=20).map(b"".join)


@thorough
@given(blocks, st.integers(-1, 8), st.integers(1, 5))
@example(b"", 1, 1)
@example(b"\n", 1, 1)
@example(b"\n\n", 1, 1)
def test_the_last_lines_found_backwards_are_those_of_the_naive_way(
    stream: bytes, lines: int, step: int
) -> None:
    start = len(stream)
    backwards = Backwards(start, lines)
    found = None
    while found is None:
        found = backwards.take(stream[max(start - step, 0) : start])
        start -= step
    wanted = lines_of(stream)[-lines:] if lines > 0 else []
    assert stream[found:] == b"".join(wanted)


# ---- the order of both streams

Written = list[tuple[str, int]]  # pieces in the order of writing: stream, length


def marks_of(written: Written) -> list[Mark]:
    ends = {"stdout": 0, "stderr": 0}
    marks = []
    for number, (stream, length) in enumerate(written):
        marks.append(Mark(stream, ends[stream], number))
        ends[stream] += length
    return marks


def bytes_of(segments: list[Segment]) -> list[tuple[str, int]]:
    """Every byte as (stream, offset), in order."""
    return [(s.stream, at) for s in segments for at in range(s.start, s.end)]


def sizes_after(order: list[tuple[str, int]]) -> dict[str, int]:
    streams = [stream for stream, _ in order]
    return {stream: streams.count(stream) for stream in ("stdout", "stderr")}


def test_marks_give_the_order_and_neighbours_are_joined() -> None:
    timeline = Timeline({"stdout": 0, "stderr": 0})
    written = [("stdout", 3), ("stdout", 2), ("stderr", 4), ("stdout", 1)]
    timeline.add(marks_of(written))
    assert timeline.take({"stdout": 6, "stderr": 4}) == [
        Segment("stdout", 0, 5, 0),
        Segment("stderr", 0, 4, 2),
        Segment("stdout", 5, 6, 3),
    ]
    assert timeline.take({"stdout": 6, "stderr": 4}) == []


def test_a_timeline_may_begin_in_the_middle() -> None:
    timeline = Timeline({"stdout": 4, "stderr": 1})
    timeline.add(marks_of([("stdout", 3), ("stderr", 2), ("stdout", 3)]))
    assert timeline.take({"stdout": 6, "stderr": 2}) == [
        Segment("stderr", 1, 2, 1),
        Segment("stdout", 4, 6, 2),
    ]


def test_growth_under_a_known_mark_belongs_to_it() -> None:
    timeline = Timeline({"stdout": 0, "stderr": 0})
    timeline.add([Mark("stdout", 0, 7)])
    assert timeline.take({"stdout": 2, "stderr": 0}) == [Segment("stdout", 0, 2, 7)]
    assert timeline.take({"stdout": 5, "stderr": 0}) == [Segment("stdout", 2, 5, 7)]


MARKS_AHEAD = "_last_marks drops marks whose bytes are not counted yet"


def test_marks_that_are_ahead_of_the_sizes_keep_their_order() -> None:
    timeline = Timeline({"stdout": 0, "stderr": 0})
    written = [("stdout", 2), ("stderr", 2), ("stdout", 2), ("stderr", 2)]
    timeline.add(marks_of(written))
    first = timeline.take({"stdout": 1, "stderr": 0})
    rest = timeline.take({"stdout": 4, "stderr": 4})
    assert first == [Segment("stdout", 0, 1, 0)]
    assert [(s.stream, s.start, s.end) for s in rest] == [
        ("stdout", 1, 2),
        ("stderr", 0, 2),
        ("stdout", 2, 4),
        ("stderr", 2, 4),
    ]


pieces = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.integers(1, 4)), min_size=1, max_size=12
)


def taken_in_steps(written: Written, data: st.DataObject, *, ahead: bool) -> list[tuple[str, int]]:
    """What a reader gets that looks at the sizes, then at the marks, at any moments."""
    marks = marks_of(written)
    order = [
        (stream, mark.offset + at)
        for (stream, length), mark in zip(written, marks, strict=True)
        for at in range(length)
    ]
    timeline = Timeline({"stdout": 0, "stderr": 0})
    found: list[tuple[str, int]] = []
    bytes_seen = marks_seen = 0
    for last in (False, False, False, True):
        bytes_seen = len(order) if last else data.draw(st.integers(bytes_seen, len(order)))
        sizes = sizes_after(order[:bytes_seen])
        needed = sum(mark.offset < sizes[mark.stream] for mark in marks)
        most = len(marks) if ahead else max(needed, marks_seen)
        least = max(needed, marks_seen)
        known = len(marks) if last else data.draw(st.integers(least, max(least, most)))
        timeline.add(marks[marks_seen:known])
        marks_seen = known
        found += bytes_of(timeline.take(sizes))
    assert sorted(found) == sorted(order), "a byte is missing or there twice"
    for stream in ("stdout", "stderr"):
        offsets = [at for name, at in found if name == stream]
        assert offsets == list(range(len(offsets)))
    return [] if found == order else order


@thorough
@given(pieces, st.data())
def test_segments_are_exact_and_in_the_order_of_writing(
    written: Written, data: st.DataObject
) -> None:
    assert taken_in_steps(written, data, ahead=False) == []


@thorough
@given(pieces, st.data())
def test_segments_are_in_the_order_of_writing_also_when_marks_are_ahead(
    written: Written, data: st.DataObject
) -> None:
    assert taken_in_steps(written, data, ahead=True) == []


@thorough
@given(pieces, st.data())
def test_any_growth_of_sizes_gives_both_streams_whole_and_each_take_by_marks(
    written: Written, data: st.DataObject
) -> None:
    marks = marks_of(written)
    ends = {name: sum(n for s, n in written if s == name) for name in ("stdout", "stderr")}
    timeline = Timeline({"stdout": 0, "stderr": 0})
    timeline.add(marks)
    sizes = {"stdout": 0, "stderr": 0}
    positions = dict(sizes)
    for last in (False, False, True):
        sizes = {
            stream: ends[stream] if last else data.draw(st.integers(size, ends[stream]))
            for stream, size in sizes.items()
        }
        segments = timeline.take(sizes)
        for segment in segments:
            assert segment.start == positions[segment.stream] < segment.end
            positions[segment.stream] = segment.end
        assert positions == sizes == timeline.positions
        assert [s.time_us for s in segments] == sorted(s.time_us for s in segments)
        names = [segment.stream for segment in segments]
        assert all(one != next for one, next in pairwise(names))
