"""What people see: nothing steers their terminal, prefixes are whole, times and sizes are short."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quarterdeck.cli.render import (
    LONGEST_LINE,
    Printer,
    coloured,
    pointed,
    print_json,
    safe,
    say,
    table,
)

SGR = re.compile(rb"\x1b\[[0-9;:]*m")
MIB = 1 << 20
HOSTILE = 256 << 10

thorough = settings(max_examples=400)


# ---- a place in a text


def test_a_caret_stands_under_the_place_that_is_meant() -> None:
    assert pointed("a | gruop:web", 4) == "  a | gruop:web\n      ^"
    assert pointed("a |", 3) == "  a |\n     ^"
    assert pointed("日本 x", 3) == "  日本 x\n       ^"
    assert pointed("a\n\x1bx", 3) == "  a  x\n     ^"


def test_of_a_long_text_the_part_around_the_place_is_shown() -> None:
    line, caret = pointed("a" * 500 + "X" + "b" * 500, 500).split("\n")
    assert line.startswith("  ...aaa") and line.endswith("bbb...")
    assert line[caret.index("^")] == "X"
    assert len(line) < 120


# ---- safe


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text\n",
        b"tab\tand\rreturn\r\n",
        b"\x1b[31mred\x1b[0m",
        b"\x1b[m\x1b[1;38;5;200mx\x1b[38:2::1:2:3mx",
        "Zoë ✓ 日本語 🚢\n".encode(),
        b"latin-1 \xe9\xe8 and \xff\xfe",
    ],
)
def test_text_tabs_returns_and_colours_pass(data: bytes) -> None:
    assert safe(data) == data


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"a\x1b[2Jb", b"ab"),
        (b"a\x1b[1;1Hb", b"ab"),
        (b"a\x1b[?1049hb", b"ab"),
        (b"a\x1b[>0qb", b"ab"),
        (b"a\x1b[6nb", b"ab"),
        (b"a\x1b[>4;1mb", b"ab"),
        (b"a\x1b[ qb", b"ab"),
        (b"a\x1b]0;title\x07b", b"ab"),
        (b"a\x1b]0;title\x1b\\b", b"ab"),
        (b"a\x1b]52;c;ZXZpbA==\x07b", b"ab"),
        (b"a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", b"alinkb"),
        (b"a\x1bP+q544e\x1b\\b", b"ab"),
        (b"a\x1b_apc\x1b\\b", b"ab"),
        (b"a\x1b^pm\x1b\\b", b"ab"),
        (b"a\x1bXsos\x1b\\b", b"ab"),
        (b"a\x1bcb", b"ab"),
        (b"a\x1b7b\x1b8c", b"abc"),
        (b"a\x1bDb\x1bMc", b"abc"),
        (b"a\x08\x08b", b"a..b"),
        (b"a\x07b\x00c\x0ed\x0fe\x7ff", b"a.b.c.d.e.f"),
        (b"a\x0bb\x0cc", b"a.b.c"),
    ],
)
def test_what_steers_is_taken_out(data: bytes, shown: bytes) -> None:
    assert safe(data) == shown


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b",
        b"\x1b[",
        b"\x1b[3",
        b"\x1b[3;",
        b"\x1b[?",
        b"\x1b]",
        b"\x1b]0;ti",
        b"\x1bP",
        b"\x1b(",
    ],
)
def test_a_cut_off_sequence_leaves_no_escape(data: bytes) -> None:
    assert b"\x1b" not in safe(b"text" + data)
    assert safe(b"text" + data).startswith(b"text")


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b\x1b[2J",
        b"\x1b\x1b\x1b[2J",
        b"\x1b[\x1b[2J",
        b"\x1b[3\x1b[2Jm",
        b"\x1b]0;\x1b]0;\x07\x1b[2J\x07",
        b"\x1b[31\x07m",
        b"\x1b[2\nJ",
        b"\x1b[0;0;0\x1b\\[2J",
    ],
)
def test_taking_one_sequence_out_does_not_make_another(data: bytes) -> None:
    assert b"\x1b" not in SGR.sub(b"", safe(data))
    assert safe(safe(data)) == safe(data)


parts = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"\x1b", b"\x1b[", b"\x1b]", b"\x1bP", b"\x1b\\", b"\x07", b"m", b";", b"31"])
    | st.sampled_from([b"2J", b"\n", b"\x1b[31m", b"\x9b", b"\xc2\x9b", b"\x1b[?", b" ", b"q"]),
)


@thorough
@given(st.lists(parts, max_size=12).map(b"".join))
@example(b"\x1b[0m\x1b")
def test_whatever_comes_only_colours_and_harmless_controls_pass(data: bytes) -> None:
    left = SGR.sub(b"", safe(data))
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", left)
    assert safe(safe(data)) == safe(data)


@thorough
@given(st.text(st.characters(min_codepoint=0xA0, codec="utf-8")))
def test_letters_of_all_scripts_pass_unchanged(text: str) -> None:
    assert safe(text.encode()) == text.encode()


def test_safe_is_quick_also_for_hostile_output() -> None:
    """What grows with the square of its length would take minutes here."""
    begun = time.process_time()
    for hostile in (b"\x1b[", b"\x1b]0;", b"\x1b[0", b"\x1bP", b"\x1b", b"\x1b[ "):
        safe(hostile * (HOSTILE // len(hostile)))
        safe(b"\x1b[" + hostile[-1:] * HOSTILE)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("data", [b"a\xc2\x9b2Jb", b"a\xc2\x9d0;t\x07b", b"a\xc2\x90q\xc2\x9cb"])
def test_c1_controls_in_utf8_do_not_pass(data: bytes) -> None:
    assert not re.search(rb"\xc2[\x80-\x9f]", safe(data))


@pytest.mark.parametrize("data", [b"a\x9b2Jb", b"a\x9d0;t\x9cb", b"\x90q\x9c"])
def test_raw_c1_controls_do_not_pass(data: bytes) -> None:
    assert not re.search(rb"[\x80-\x9f]", safe(data))


def test_a_letter_after_a_lone_escape_stays_whole() -> None:
    assert safe(b"\x1b" + "é".encode()).endswith("é".encode())


def test_a_line_end_after_a_lone_escape_stays() -> None:
    assert safe(b"a\x1b\nb").endswith(b"\nb")


def test_an_unfinished_title_does_not_hide_the_lines_after_it() -> None:
    assert b"second" in safe(b"a\x1b]0;never ended\nsecond\nthird\n")


# ---- Printer


class Terminal(io.TextIOWrapper):
    """Text over bytes that says that it is a terminal."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    def got(self) -> bytes:
        self.flush()
        return self.bytes.getvalue()


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Lets stdout and stderr be one terminal; in the test, because pytest sets them before it."""
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    return made


Capture = pytest.CaptureFixture[bytes]


def test_one_task_prints_its_bytes_unchanged_to_where_they_belong(capsysbinary: Capture) -> None:
    printer = Printer(prefix=False)
    printer.output("n", "t", "stdout", b"\x1b[2Jhalf a li")
    printer.output("n", "t", "stderr", b"oops\xff")
    printer.output("n", "t", "stdout", b"ne\n")
    printer.ended("n", "t")
    assert capsysbinary.readouterr() == (b"\x1b[2Jhalf a line\n", b"oops\xff")


def test_several_tasks_print_whole_lines_behind_their_names(capsysbinary: Capture) -> None:
    printer = Printer(prefix=True)
    printer.output("web1", "t1", "stdout", b"one\ntw")
    printer.output("db1", "t2", "stdout", b"other\n")
    printer.output("web1", "t1", "stdout", b"o\n\nthree")
    printer.output("web1", "t1", "stderr", b"oops\n")
    printer.ended("web1", "t1")
    printer.ended("web1", "t1")
    out, err = capsysbinary.readouterr()
    assert out == b"web1 | one\ndb1  | other\nweb1 | two\nweb1 | \nweb1 | three\n"
    assert err == b"web1 | oops\n"


def test_a_line_of_ten_mebibytes_without_an_end_is_printed_in_bounded_pieces(
    capsysbinary: Capture,
) -> None:
    printer = Printer(prefix=True)
    piece = b"x" * 5000
    for _ in range(10 * MIB // len(piece) + 1):
        printer.output("n", "t", "stdout", piece)
    printer.ended("n", "t")
    out = capsysbinary.readouterr().out
    lines = out.split(b"\n")
    assert out.count(b"x") == (10 * MIB // len(piece) + 1) * len(piece)
    assert all(line.startswith(b"n | ") for line in lines[:-1]) and lines[-1] == b""
    assert max(map(len, lines)) <= LONGEST_LINE + len(piece) + 4


def test_on_a_terminal_output_is_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    Printer(prefix=False).output("n", "t", "stdout", b"a\x1b[2Jb\n")
    assert terminal.got() == b"ab\n"


def test_on_a_terminal_names_have_colours_and_can_not_steer_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    printer = Printer(prefix=True)
    printer.output("a\x1b[2J", "t", "stdout", b"x\x1b]0;t\x07y\n")
    printer.output("b", "u", "stderr", b"z\n")
    got = terminal.got()
    assert SGR.search(got) and b"\x1b" not in SGR.sub(b"", got)
    assert b" xy\n" in got


def test_on_a_terminal_a_return_does_not_take_the_name_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    printer = Printer(prefix=True)
    printer.output("a", "t", "stdout", b"10%\r100%\r\nplain\n")
    printer.output("a", "t", "stdout", b"\rb | not b")
    printer.ended("a", "t")
    shown = SGR.sub(b"", terminal.got())
    assert shown == b"a | 10%\ra | 100%\na | plain\na | \ra | b | not b\n"


def test_on_a_terminal_colours_end_with_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    printer = Printer(prefix=True)
    printer.output("a", "t", "stdout", b"\x1b[8mhidden\nplain\n")
    first, second, _ = terminal.got().split(b"\n")
    assert first.endswith(b"hidden\x1b[0m") and second.endswith(b" plain")


CUT = "the Printer cleans chunk by chunk, without memory of what was cut"


@pytest.mark.parametrize(
    "data", [b"a\x1b[31mred\x1b[0m\n", b"a\x1b]0;title\x07b\n", b"a\x1b[2Jb\n"]
)
def test_a_sequence_cut_between_two_chunks_is_treated_as_one(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    terminal = on_terminal(monkeypatch)
    for at in range(1, len(data)):
        printer = Printer(prefix=False)
        before = len(terminal.got())
        printer.output("n", "t", "stdout", data[:at])
        printer.output("n", "t", "stdout", data[at:])
        assert terminal.got()[before:] == safe(data)


@pytest.mark.parametrize("way", ["say", "table"])
def test_messages_and_tables_do_not_steer_a_terminal(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    terminal = on_terminal(monkeypatch)
    if way == "say":
        say("node said: \x1b[2J\x1b]0;t\x07")
    else:
        table(["NODE"], [["evil\x1b[2J\x1b]0;t\x07"]])
    assert b"\x1b" not in SGR.sub(b"", terminal.got())


def test_a_table_has_its_headers_and_cells(capsys: pytest.CaptureFixture[str]) -> None:
    table(["NODE", "STATE"], [["web1", "ready"], ["[bold]x", "failed, exit 3"]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["NODE", "STATE"], ["web1", "ready"], ["[bold]x", "failed,", "exit", "3"]]


def test_json_is_one_line_that_keeps_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "é\n", "b": [1]})
    assert capsys.readouterr().out == '{"a":"é\\n","b":[1]}\n'


def test_colour_is_there_only_when_it_is_on() -> None:
    assert coloured("x", 31, on=False) == "x"
    assert coloured("x", 31, on=True) == "\x1b[31mx\x1b[0m"
