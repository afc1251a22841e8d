"""Traces: what frames add, what is over a limit, how a trace ends, is lost and comes back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core import trace as rules
from quarterdeck.core.model import STREAMS
from quarterdeck.core.states import Outcome, RunState
from quarterdeck.core.trace import Dropped, End, Frame, Positions, Start, Trace, news
from quarterdeck.core.traced import attempt_of, exit_code, outcome, run_of, task_of
from quarterdeck.errors import Conflict, Invalid
from quarterdeck.service import caught
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from quarterdeck.wire.trace import (
    PIECE,
    decode_frames,
    decode_said,
    encode_drop,
    encode_frame,
    joined,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = Trace(
    id="06gzrkf62a2sc3jj",
    namespace="a",
    name="deploy",
    sender="web-1",
    key="0" * 32,
    by="token",
    kept=True,
    start=Start(command=("make", "all")),
    created_at=NOW,
    heard_at=NOW,
)
SAID = bytes(range(256)) * 4


@st.composite
def sendings(draw: st.DrawFn) -> list[list[Frame]]:
    """A stream in bodies as a sender may send them: from its first unacknowledged byte or earlier,
    again when an answer was lost, torn anywhere."""
    bodies, acked = [], 0
    while acked < len(SAID):
        start = draw(st.integers(0, acked))
        end = draw(st.integers(max(start, acked), min(len(SAID), acked + 200)))
        cuts = sorted(draw(st.lists(st.integers(start, end), max_size=4)))
        frames = [
            Frame("stdout", a, 0, SAID[a:b])
            for a, b in zip([start, *cuts], [*cuts, end], strict=True)
        ]
        bodies.append(frames)
        acked = max(acked, end)
        if end == acked and end < len(SAID) and len(bodies) > 60:
            bodies.append([Frame("stdout", acked, 0, SAID[acked:])])
            acked = len(SAID)
    return bodies


@given(sendings())
def test_whatever_repeats_and_overlaps_every_byte_is_taken_once(bodies: list[list[Frame]]) -> None:
    acked, taken = Positions(), bytearray()
    for frames in bodies:
        found = news(frames, acked, gaps=False)
        for frame in found.frames:
            assert frame.offset == len(taken)
            taken += frame.data
        acked = found.acked
    assert bytes(taken) == SAID
    assert acked == Positions(stdout=len(SAID))


def test_a_gap_is_refused_where_everything_is_kept_and_taken_where_it_is_not() -> None:
    frames = [Frame("stdout", 0, 0, b"ab"), Frame("stderr", 5, 0, b"x")]
    with pytest.raises(Conflict) as refused:
        news(frames, Positions(), gaps=False)
    assert refused.value.code == "gap"
    assert refused.value.detail["acked"] == {"stdout": 2, "stderr": 0}
    assert news(frames, Positions(), gaps=True).acked == Positions(stdout=2, stderr=6)


@given(
    st.lists(st.tuples(st.sampled_from(STREAMS), st.binary(max_size=40)), max_size=12),
    st.integers(0, 200),
)
def test_under_a_limit_a_beginning_is_kept_and_the_rest_is_counted(
    said: list[tuple[str, bytes]], most: int
) -> None:
    trace, kept = TRACE, dict.fromkeys(STREAMS, b"")
    whole = {stream: b"".join(d for s, d in said if s == stream) for stream in STREAMS}
    for stream, data in said:
        frame = Frame(stream, trace.acked.of(stream), 0, data)
        taken, over = rules.limited(news([frame], trace.acked, gaps=False), trace, most)
        for one in taken.frames:
            kept[one.stream] += one.data
        reached = {s: len(kept[s]) for s in STREAMS}
        left = {s: trace.over.of(s) + over.of(s) for s in STREAMS}
        trace = msgspec.structs.replace(trace, bytes=Positions(**reached), over=Positions(**left))
    assert all(whole[s].startswith(kept[s]) for s in STREAMS)
    assert sum(map(len, kept.values())) == min(most, sum(map(len, whole.values())))
    assert trace.acked == Positions(**{s: len(whole[s]) for s in STREAMS})


def test_a_limit_that_was_lowered_keeps_nothing_more_and_counts_what_comes() -> None:
    trace = msgspec.structs.replace(TRACE, bytes=Positions(stdout=1000))
    found = news([Frame("stdout", 1000, 0, b"more")], trace.acked, gaps=False)
    kept, over = rules.limited(found, trace, 500)
    assert (kept.frames, over) == ((), Positions(stdout=4))


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 9)), max_size=400))
def test_drops_that_are_told_again_count_once_and_their_list_is_bounded(
    told: list[tuple[int, int]],
) -> None:
    drops = [Dropped(stream="stdout", offset=at, count=count) for at, count in told]
    known = rules.with_drops((), drops)
    assert len(known) <= rules.MOST_DROPS
    if len({at for at, _ in told}) <= rules.MOST_DROPS:
        assert rules.with_drops(known, drops) == known
        most = {at: max(c for a, c in told if a == at) for at, _ in told}
        assert {one.offset: one.count for one in known} == most


def test_however_much_was_dropped_its_sum_is_a_number_that_can_be_kept() -> None:
    most = rules.MOST_COUNT
    drops = [Dropped(stream="stdout", offset=at, count=most) for at in range(400)]
    trace = msgspec.structs.replace(TRACE, dropped=rules.with_drops((), drops))
    snapshot = attempt_of(trace).snapshot
    assert snapshot is not None and 0 < snapshot.stdout.dropped < 1 << 62
    body = encode_frame(Frame("stdout", 0, 0, b"", most))
    assert decode_frames(body) == [Frame("stdout", 0, 0, b"", most)]
    with pytest.raises(Invalid):
        decode_frames(encode_frame(Frame("stdout", 0, 0, b"", most + 1)))


@pytest.mark.parametrize(
    ("end", "came_out", "code"),
    [
        (End(code=0), Outcome.SUCCEEDED, 0),
        (End(), Outcome.SUCCEEDED, None),
        (End(code=3), Outcome.FAILED, 3),
        (End(signal=9), Outcome.FAILED, 137),
        (End(code=143, signal=15), Outcome.FAILED, 143),
    ],
)
def test_the_end_of_a_kept_trace_is_told_once_it_is_archived(
    end: End, came_out: Outcome, code: int | None
) -> None:
    ended = rules.ended(TRACE, end, NOW)
    assert outcome(ended) is None and run_of(ended).state is RunState.RUNNING
    told = rules.archived(ended)
    assert (outcome(told), exit_code(told)) == (came_out, code)
    assert task_of(told).exit_code == code
    assert rules.ended(told, End(code=99), NOW) is told


def test_a_lost_trace_comes_back_until_it_is_archived() -> None:
    lost = rules.fell_silent(TRACE, NOW)
    assert outcome(lost) is Outcome.LOST
    assert attempt_of(lost).released and attempt_of(lost).sealed
    back = rules.came_back(lost, NOW)
    assert outcome(back) is None and back.told == TRACE.told + 2
    assert not rules.may_seal(lost, NOW)
    day = NOW + timedelta(seconds=rules.FINAL_AFTER_S)
    assert rules.may_seal(lost, day)
    closed = rules.archived(lost)
    assert rules.came_back(closed, day) is closed
    assert rules.ended(closed, End(code=0), day) is closed
    assert rules.fell_silent(rules.ended(TRACE, End(), NOW), NOW).lost is False


def test_who_was_heard_of_meanwhile_begins_to_count_anew() -> None:
    seen = rules.look({}, [("a", 1), ("b", 1)], 0.0)
    seen = rules.look(seen, [("a", 1), ("b", 2)], 5.0)
    assert {id: one.since for id, one in seen.items()} == {"a": 0.0, "b": 5.0}
    assert rules.look(seen, [("b", 2)], 6.0).keys() == {"b"}


def test_times_of_a_sender_whose_clock_is_wrong_stay_in_order() -> None:
    ahead = msgspec.structs.replace(TRACE, start=Start(started_at=NOW + timedelta(days=1)))
    assert ahead.started_at == NOW
    early = rules.ended(ahead, End(ended_at=NOW - timedelta(days=1)), NOW)
    assert early.ended_at == NOW


@pytest.mark.parametrize("name", ["", ".a", "a b", "a\n", "ä", "x" * 101, "a/b", "a*"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="name of a trace"):
        rules.check_name(name)


@pytest.mark.parametrize("sender", ["", "a\0b", "a\nb", "x" * 256, "\x7f", "\x85"])
def test_a_bad_id_of_a_sender_is_refused(sender: str) -> None:
    with pytest.raises(Invalid, match="id of a sender"):
        rules.check_sender(sender)
    assert rules.check_sender("web 1.*>é/") == "web 1.*>é/"


@given(st.text(), st.text())
def test_any_text_is_one_token_of_a_subject_and_no_two_are_the_same(one: str, two: str) -> None:
    token = subjects.escaped(one)
    assert token and len(token) <= subjects.LONGEST_TOKEN
    assert not set(token) & set(" .*>\t\r\n") and token.isascii() and token.isprintable()
    if one.encode(errors="replace") != two.encode(errors="replace"):
        assert token != subjects.escaped(two)


def test_the_subject_of_a_trace_names_it() -> None:
    subject = subjects.trace("a", "v1.2", "web 1", TRACE.id)
    assert subject == f"trace.a.v1=2E2.web=201.{TRACE.id}"
    live = subjects.trace("a", "v1.2", "x" * 3000, TRACE.id, live=True)
    assert subjects.trace_of(subject) == subjects.trace_of(live) == TRACE.id
    for odd in ("trace.a", "out.n.r.a", "live.changed", "trace.a.b.c.d.e"):
        with pytest.raises(Invalid):
            subjects.trace_of(odd)


FRAMES = st.builds(
    Frame,
    st.sampled_from(STREAMS),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 50),
    st.binary(max_size=50),
)


@given(st.lists(FRAMES, max_size=5), st.integers(1, 1 << 40))
def test_frames_are_read_as_they_were_written(frames: list[Frame], count: int) -> None:
    sent = [*frames, Frame("stderr", 7, 8, b"", count)]
    assert decode_frames(b"".join(map(encode_frame, sent))) == sent


@given(st.binary(max_size=200))
def test_a_body_that_is_none_of_frames_is_refused_in_a_sentence(body: bytes) -> None:
    found, error = caught(lambda: decode_frames(body))
    if error is None:
        assert b"".join(map(encode_frame, found or [])) == body
    else:
        assert isinstance(error, Invalid) and error.message.endswith(".")


def bytes_at(frames: Iterable[Frame], stream: str) -> list[tuple[int, int]]:
    """Every byte of a stream with its offset, in order."""
    own = (frame for frame in frames if frame.stream == stream)
    return [(frame.offset + at, byte) for frame in own for at, byte in enumerate(frame.data)]


@given(st.lists(FRAMES, max_size=8))
def test_chunks_hold_what_their_frames_hold(frames: list[Frame]) -> None:
    chunks = list(joined(frames))
    for stream in STREAMS:
        assert bytes_at(chunks, stream) == bytes_at(frames, stream)
    assert all(chunk.data for chunk in chunks)


def test_a_long_frame_becomes_chunks_and_short_ones_become_one() -> None:
    long = Frame("stdout", 5, 1, bytes(2 * PIECE + 1))
    assert [(one.offset, len(one.data)) for one in joined([long])] == [
        (5, PIECE),
        (5 + PIECE, PIECE),
        (5 + 2 * PIECE, 1),
    ]
    short = [Frame("stdout", at, 100 + at, b"x") for at in range(10)]
    assert list(joined(short)) == [Frame("stdout", 0, 100, b"x" * 10)]
    later = [Frame("stdout", at, at * 1_000_000, b"x") for at in range(3)]
    assert list(joined(later)) == later


def test_a_drop_is_told_on_the_fabric_beside_chunks() -> None:
    drop = Dropped(stream="stderr", offset=5, count=1 << 33)
    chunk = Chunk("stdout", 3, 4, b"hi")
    assert decode_said(encode_drop(drop, 1)) == drop
    assert decode_said(encode_chunk(chunk)) == chunk
    for torn in (b"", encode_drop(drop, 1)[:-1], b"\x02" + b"\xff" * 25, b"\x03" * 30):
        with pytest.raises(Invalid):
            decode_said(torn)
