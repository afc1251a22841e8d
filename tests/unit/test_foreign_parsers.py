"""Parsers of foreign senders: what their clients send, what is broken, and bytes torn anywhere."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck.core.foreign import (
    MESSAGE_BYTES,
    Bad,
    Bound,
    Closed,
    Line,
    Message,
    Parser,
    Told,
    rtail,
    sender_id,
    syslog,
    trace_name,
)
from quarterdeck.core.foreign.logio import logio, logio4
from quarterdeck.core.trace import check_name, check_sender

PARSERS: dict[str, Callable[[], Parser]] = {
    "logio": logio,
    "logio4": logio4,
    "syslog": syslog.Syslog,
}


def whole(parser: Parser, *pieces: bytes) -> list[Message]:
    """Everything that a connection says with these bytes, to its end."""
    return [one for piece in pieces for one in parser.feed(piece)] + parser.finish()


def test_log_io_announces_binds_logs_and_leaves() -> None:
    said = (
        b"+node|web1|access,errors\r\n+bind|node|web1\r\n+stream|access|web1\r\n"
        b"+log|access|web1|info|GET / | 200\r\n+log|errors|web1|ERROR|no disk\r\n"
        b"-stream|access\r\n-node|web1\r\n"
    )
    assert whole(logio(), said) == [
        Told(),
        Bound("web1"),
        Told(),
        Line("access", "web1", b"GET / | 200"),
        Line("errors", "web1", b"no disk", error=True),
        Closed("access", None),
        Closed(None, "web1"),
    ]


def test_log_io_4_keeps_lines_inside_a_text_and_drops_the_last_line_end() -> None:
    said = b"+input|app|web1\0+msg|app|web1|one | two\nthree\n\0-input|app|web1\0"
    assert whole(logio4(), said) == [
        Told(),
        Line("app", "web1", b"one | two\nthree"),
        Closed("app", "web1"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"+log",
        b"+log|a|b|info",
        b"+log||b|info|x",
        b"+bind|stream|a",
        b"-node",
        b"-node|",
        b"hello",
        bytes(range(256)).replace(b"\r\n", b""),
    ],
)
def test_a_bad_message_of_log_io_is_skipped(bad: bytes) -> None:
    found = whole(logio(), b"+log|a|b|info|1\r\n" + bad + b"\r\n+log|a|b|info|2\r\n")
    assert [type(one) for one in found] == [Line, Bad, Line]
    assert found[2] == Line("a", "b", b"2")


def test_a_message_that_is_too_long_is_bad_and_the_next_is_read() -> None:
    most = b"+log|a|b|info|".ljust(MESSAGE_BYTES, b"x")
    found = whole(logio(), most + b"\r\n" + most + b"x\r\n+log|a|b|info|2\r\n")
    assert [type(one) for one in found] == [Line, Bad, Line]


def test_a_line_without_end_is_bad_once_and_nothing_of_it_is_kept() -> None:
    parser = logio()
    found = [one for _ in range(200) for one in parser.feed(b"x" * 4096)]
    assert [type(one) for one in found] == [Bad]
    assert parser.feed(b"\r\n+log|a|b|info|2\r\n") == [Line("a", "b", b"2")]


def test_half_a_message_at_the_end_of_a_connection_is_bad() -> None:
    assert [type(one) for one in whole(logio(), b"+log|a|b|info|1")] == [Bad]
    assert [type(one) for one in whole(logio4(), b"+msg|a|b|1")] == [Bad]


def test_rtail_text_stays_and_other_json_becomes_one_line() -> None:
    def text(content: str) -> object:
        message = rtail.read(f'{{"id": "app", "timestamp": 12, "content": {content}}}'.encode())
        assert isinstance(message, Line)
        assert (message.name, message.sender, message.time_us) == ("app", "", 12_000)
        return message.text

    assert text('"caf\\u00e9 \\"x\\""') == 'café "x"'.encode()
    assert text('{"b" : 1.50, "a": [1, 12345678901234567890123]}') == (
        b'{"b":1.50,"a":[1,12345678901234567890123]}'
    )
    assert text("null") == b"null"
    assert text("true") == b"true"
    assert text('"half \\ud83d"') == b"half ?"


@pytest.mark.parametrize(
    ("timestamp", "time_us"),
    [("1.5e3", 1_500_000), ("null", None), ('"now"', None), ("-1", None), ("1e300", None)],
)
def test_rtail_timestamps_that_are_none_are_left_out(timestamp: str, time_us: int | None) -> None:
    message = rtail.read(f'{{"id": 7, "timestamp": {timestamp}, "content": "x"}}'.encode())
    assert message == Line("7", "", b"x", time_us=time_us)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"hello",
        b"[]",
        b'{"id": "a"}',
        b'{"content": "a"}',
        b'{"id": ["a"], "content": "a"}',
        b'{"id": "a", "content": ' + b"[" * 30_000,
        b'{"id": "a", "content": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"id": "a", "content": "' + b"x" * MESSAGE_BYTES + b'"}',
    ],
)
def test_a_bad_datagram_of_rtail_is_bad(bad: bytes) -> None:
    assert isinstance(rtail.read(bad), Bad)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            b"<34>1 2003-10-11T22:14:15.003Z host.example.com su 77 ID47 - 'su root' failed",
            Line("su", "host.example.com", b"'su root' failed", True, 1_065_910_455_003_000),
        ),
        (
            b'<165>1 2003-10-11T22:14:15.003Z h app - - [e@32473 a="1\\"]" b=""][timeQuality x="1"]'
            b" \xef\xbb\xbftext",
            Line("app", "h", b'[e@32473 a="1\\"]" b=""] text', False, 1_065_910_455_003_000),
        ),
        (b"<13>1 - - - - - -", Line("", "", b"")),
        (b'<13>1 - - - - - [x@1 a="b"]', Line("", "", b'[x@1 a="b"]')),
        (b"<13>1 - h a - - [broken text", Line("a", "h", b"[broken text")),
        (
            b"<34>Oct 11 22:14:15 mymachine su[12]: 'su root' failed\n",
            Line("su", "mymachine", b"'su root' failed", True),
        ),
        (b"<13>Oct  1 22:14:15 app: text: more", Line("app", "", b"text: more")),
        (b"<13>Oct  1 22:14:15 fe80::1 app: text", Line("app", "fe80::1", b"text")),
        (b"<13>Oct  1 22:14:15 host text without tag", Line("", "host", b"text without tag")),
        (
            b"<13>2024-02-29T00:00:00.5+01:00 host app[1]: text",
            Line("app", "host", b"text", False, 1_709_161_200_500_000),
        ),
        (b"<13>app[9]: text", Line("app", "", b"text")),
        (b"<13>just text", Line("", "", b"just text")),
        (b"<13>", Line("", "", b"")),
    ],
)
def test_syslog_as_it_is_met(data: bytes, line: Line) -> None:
    assert syslog.read(data) == line


@pytest.mark.parametrize("bad", [b"", b"text", b"<>x", b"<192>x", b"<1000>x", bytes(range(256))])
def test_what_has_no_priority_is_no_syslog(bad: bytes) -> None:
    assert isinstance(syslog.read(bad), Bad)


def test_syslog_over_tcp_counts_octets_or_ends_with_lf_as_each_message_likes() -> None:
    said = b"\r\n8 <13>a: 1<13>a: 2\n\r\n\n9 <13>a: \n3<13>a: 4\r\n<13>a: 5"
    found = whole(syslog.Syslog(), said)
    assert [one.text for one in found if isinstance(one, Line)] == [b"1", b"2", b"\n3", b"4", b"5"]
    assert len(found) == 5


def test_a_counted_message_that_is_too_long_or_cut_is_skipped() -> None:
    long = b"%d <13>a: " % (MESSAGE_BYTES + 1)
    said = long + b"x" * (MESSAGE_BYTES + 1 - 7) + b"8 <13>a: 2" + b"20 <13>a: cut"
    found = whole(syslog.Syslog(), said)
    assert [type(one) for one in found] == [Bad, Line, Bad]


def test_digits_that_are_no_length_are_text() -> None:
    said = b"123 things\n12345678 <13>x\n<13>a: ok\n77"
    assert [type(one) for one in whole(syslog.Syslog(), said)] == [Bad, Bad, Line, Bad]


def test_names_are_changed_as_little_as_can_be() -> None:
    assert trace_name("web-1.access_log", "x") == "web-1.access_log"
    assert trace_name("/var/log/my app.log", "x") == "var-log-my-app.log"
    assert trace_name("…", "rtail") == "rtail"
    assert trace_name("", "rtail") == "rtail"
    assert len(trace_name("a" * 500, "x")) == 100
    assert sender_id("db\n1\x1b[0m é", "x") == "db-1-[0m é"
    assert sender_id(" \t", "10.0.0.7") == "10.0.0.7"
    assert len(sender_id("a" * 500, "x")) == 255


patient = settings(suppress_health_check=[HealthCheck.too_slow])

LONG = b"x" * 40_000
PARTS = rb"+log -node +msg +bind|node| | a info <13> <999> 12 70000 a:".split()
words = st.sampled_from([*PARTS, LONG, b"\r", b"\n", b"\r\n", b"\0", b" ", b"8 ", b"1 ", b"\xff"])
lines = st.sampled_from(
    [b"+log|a|b|info|text\r\n", b"+msg|a|b|text\0", b"8 <13>a: 1", b"<13>1 - h a - - - m\n"]
)
streams = st.lists(words | lines | st.binary(max_size=20), max_size=30).map(b"".join)


@pytest.mark.parametrize("protocol", PARSERS)
@patient
@given(said=streams, cuts=st.lists(st.integers(0, 100), max_size=8))
def test_any_cutting_of_the_bytes_gives_the_same_messages(
    protocol: str, said: bytes, cuts: list[int]
) -> None:
    places = [0, *sorted(cut * len(said) // 100 for cut in cuts), len(said)]
    pieces = [said[a:b] for a, b in pairwise(places)]
    assert whole(PARSERS[protocol](), *pieces) == whole(PARSERS[protocol](), said)


@pytest.mark.parametrize("protocol", PARSERS)
@patient
@given(said=streams.map(lambda said: said[:400]))
def test_single_bytes_give_the_same_messages(protocol: str, said: bytes) -> None:
    pieces = [said[at : at + 1] for at in range(len(said))]
    assert whole(PARSERS[protocol](), *pieces) == whole(PARSERS[protocol](), said)


@patient
@given(data=st.binary(max_size=300) | streams)
def test_no_datagram_breaks_a_reader(data: bytes) -> None:
    assert isinstance(rtail.read(data), Line | Bad)
    assert isinstance(syslog.read(data), Line | Bad)
    assert isinstance(rtail.read(b'{"id":"a","content":' + data + b"}"), Line | Bad)
    assert isinstance(syslog.read(b"<13>" + data), Line | Bad)


@patient
@given(told=st.text(max_size=300))
def test_every_name_that_is_told_becomes_one_that_fits(told: str) -> None:
    check_name(trace_name(told, "rtail"))
    check_sender(sender_id(told, "10.0.0.7"))
