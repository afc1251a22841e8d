"""The book of foreign traces: what waits, what is dropped, when a trace is over."""

from __future__ import annotations

import itertools
import tracemalloc
from datetime import UTC, datetime

import pytest

from quarterdeck.control.foreign import book as module
from quarterdeck.control.foreign.book import LINGER_S, PIECE_COST, SILENT_S, Book, OpenTrace, Source
from quarterdeck.control.foreign.counts import Counts
from quarterdeck.control.foreign.deliver import by_turns
from quarterdeck.control.foreign.gate import BURST, LEAST_COST, RATE, Allowance, Gate
from quarterdeck.control.foreign.hub import Hub
from quarterdeck.core.foreign import Bad, Bound, Closed, Line, Message, Told
from quarterdeck.core.foreign.bucket import Bucket
from quarterdeck.core.trace import Frame, Positions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_US = round(NOW.timestamp() * 1e6)
START = Positions()


@pytest.fixture
def book() -> Book:
    keys = (f"{number:032x}" for number in itertools.count())
    return Book(
        namespace="default", new_key=lambda: next(keys), now=lambda: NOW, changed=lambda: None
    )


def say(book: Book, source: Source, *lines: Line, at: float = 0.0) -> OpenTrace:
    """The trace that these lines of one name belong to."""
    for line in lines:
        found = book.find(source, line) or book.begin(source, line)
        book.write(found, source, line, at, Counts())
    return found


def test_lines_that_come_together_are_one_frame_and_errors_another(book: Book) -> None:
    web = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    lines = [Line("app", "web1", b"1"), Line("app", "web1", b"2"), Line("app", "web1", b"!", True)]
    found = say(book, web, *lines, Line("app", "web1", b"3"))
    assert found.frames() == [
        Frame("stdout", 0, NOW_US, b"1\n2\n"),
        Frame("stderr", 0, NOW_US, b"!\n"),
        Frame("stdout", 4, NOW_US, b"3\n"),
    ]


def test_what_was_not_taken_is_the_same_frames_again_and_later_lines_come_behind(
    book: Book,
) -> None:
    web = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    found = say(book, web, Line("app", "web1", b"1"))
    first = found.frames()
    say(book, web, Line("app", "web1", b"2"))
    assert found.frames() == first
    book.freed(found.sent(first))
    assert found.frames() == [Frame("stdout", 2, NOW_US, b"2\n")]
    book.freed(found.sent(found.frames()))
    assert (found.empty, book.waiting_bytes, found.waiting_bytes) == (True, 0, 0)


def test_lines_of_one_byte_cost_what_they_take_of_memory(book: Book) -> None:
    """Their sender gives them times, so that none goes together with another."""
    web, counts = Source("rtail", "10.0.0.1", Allowance(0.0), connection=False), Counts()
    found = book.begin(web, Line("app", "", b""))
    tracemalloc.start()
    for number in range(20_000):
        book.write(found, web, Line("app", "", b"", time_us=number * 100_000), 0.0, counts)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts.dropped and taken < 2 * module.MOST_WAITING
    book.freed(found.sent(found.frames()))
    assert (book.waiting_bytes, found.waiting_bytes) == (0, 0)


def test_what_finds_no_room_is_counted_where_it_is_missing(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 4 + PIECE_COST)
    web, counts = Source("logio", "10.0.0.1", Allowance(0.0), connection=True), Counts()
    found = say(book, web, Line("app", "web1", b"1"))
    for text in (b"22", b"33"):
        book.write(found, web, Line("app", "web1", text), 0.0, counts)
    frames = found.frames()
    assert frames == [Frame("stdout", 0, NOW_US, b"1\n"), Frame("stdout", 2, NOW_US, b"", 6)]
    book.write(found, web, Line("app", "web1", b"44"), 0.0, counts)  # dropped while these go
    book.freed(found.sent(frames))
    assert found.frames() == [Frame("stdout", 2, 0, b"", 3)]
    assert counts.dropped == 9 and counts.problem


def test_a_trace_that_is_over_on_the_other_side_begins_anew_with_what_waits(book: Book) -> None:
    web = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    found = say(book, web, Line("app", "web1", b"1"))
    key = found.new.key
    found.at["stdout"] = 100
    assert found.frames() == [Frame("stdout", 100, NOW_US, b"1\n")]
    book.renew(found)
    assert found.new.key != key and book.due() == [found]


def test_a_trace_lives_as_long_as_one_connection_of_it_and_a_little_longer(book: Book) -> None:
    first = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    second = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    found = say(book, first, Line("app", "web1", b"1"))
    say(book, second, Line("app", "web1", b"2"))
    book.gone(first, 10.0)
    book.look(10.0 + 2 * LINGER_S)
    assert not found.closing
    book.gone(second, 20.0)
    book.look(20.0 + LINGER_S - 0.1)
    assert not found.closing
    book.look(20.0 + LINGER_S)
    assert found.closing and book.senders("logio") == 0
    assert say(book, first, Line("app", "web1", b"3")) is not found


def test_a_trace_that_was_silent_for_five_minutes_is_over(book: Book) -> None:
    found = say(
        book,
        Source("rtail", "10.0.0.1", Allowance(0.0), connection=False),
        Line("app", "", b"1"),
        at=5.0,
    )
    book.look(5.0 + SILENT_S - 1)
    assert not found.closing
    book.look(5.0 + SILENT_S)
    assert found.closing


def test_a_sender_closes_only_what_came_from_its_address(book: Book) -> None:
    near = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    far = Source("logio", "10.0.0.2", Allowance(0.0), connection=True)
    found = say(book, near, Line("app", "web1", b"1"))
    other = say(book, near, Line("app", "web2", b"1"))
    book.close(far, Closed(None, "web1"))
    assert not found.closing
    book.close(near, Closed(None, "web1"))
    assert found.closing and not other.closing
    book.close(near, Closed("app", None))
    assert other.closing


def test_the_hub_counts_what_it_takes_and_what_it_refuses(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 2)
    hub = Hub(book, Gate(), lambda: 0.0)
    web = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    said: list[Message] = [Told(), Bad("why"), Line("a", "b", b""), Line("c", "d", b""), Bound("b")]
    assert hub.take(web, said) == "b"
    assert (
        hub.take(web, [Line("x" * 2000, "b", b""), Line("e", "f", b""), Line("a", "b", b"")])
        is None
    )
    counts = hub.counts_of("logio")
    assert (counts.messages, counts.bad, counts.limited) == (5, 2, 1)


def test_a_sender_may_begin_so_many_traces_and_its_address_a_few_times_more() -> None:
    gate = Gate()

    def begun(port: int, now: float = 0.0, *, owing: bool = False) -> int:
        sender = gate.sender("10.0.0.1", port, now)
        return sum(gate.begins("10.0.0.1", sender, now, owing=owing) for _ in range(500))

    assert [begun(port) for port in range(5)] == [300, 300, 300, 300, 0]
    assert begun(0, 1.0) == 10
    assert gate.begins("10.0.0.2", gate.sender("10.0.0.2", 1, 0.0), 0.0, owing=False)


def test_new_names_begin_by_turns_of_their_senders(book: Book) -> None:
    crowd = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    other = Source("logio", "10.0.0.1", Allowance(0.0), connection=True)
    new = [say(book, crowd, Line(name, "n", b"x")) for name in "abc"]
    new += [say(book, other, Line(name, "n", b"x")) for name in "de"]
    assert [found.key[1] for found in by_turns(new)] == ["a", "d", "b", "e", "c"]


def test_a_connection_with_too_many_names_waits_instead() -> None:
    gate, may = Gate(), Allowance(0.0)
    assert all(gate.begins("10.0.0.1", may, 0.0, owing=True) for _ in range(400))
    assert may.wait_s() == 10.0


def test_a_sender_of_datagrams_is_limited_and_its_neighbours_are_not() -> None:
    gate = Gate()

    def taken(port: int, now: float, times: int) -> int:
        sender = gate.sender("10.0.0.1", port, now)
        return sum(gate.admits("10.0.0.1", sender, 10, now) for _ in range(times))

    assert taken(1, 0.0, 100_000) == BURST // LEAST_COST
    assert taken(2, 0.0, 1) == 1
    assert taken(1, 1.0, 100_000) == RATE // LEAST_COST


def test_a_flood_from_ever_new_ports_is_limited_by_its_address() -> None:
    gate = Gate()
    taken = sum(
        gate.admits("10.0.0.1", gate.sender("10.0.0.1", number, 0.0), 60_000, 0.0)
        for number in range(5000)
    )
    assert taken < 1200
    assert gate.admits("10.0.0.2", gate.sender("10.0.0.2", 1, 0.0), 60_000, 0.0)


def test_a_bucket_in_debt_says_when_it_is_paid() -> None:
    bucket = Bucket(10.0, 5.0, 0.0)
    bucket.spend(25.0, 0.0)
    assert bucket.wait_s() == 2.0
    assert bucket.fill(2.0) == 0.0
    assert bucket.fill(100.0) == 5.0
    assert bucket.fill(50.0) == 5.0  # a clock that stands still
