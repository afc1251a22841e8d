"""What people see: prefixed live output that is safe for a terminal, tables, and summaries."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, BinaryIO

COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
LONGEST_LINE = 64 << 10
FOLDED_ROWS = 200
SGR = {"bold": 1, "green": 32, "red": 31, "magenta": 35, "yellow": 33, "cyan": 36}
CARET_WIDTH = 90
WIDE = 130
NEARLY_S = 2.0
"""What was asked for `1h` a moment ago is said to end in an hour, not in 59 minutes."""
WHOLE = ("RUN", "NODE", "ATTEMPT")
"""Columns of ids and names, which people copy: where room is short the others are folded."""
# A terminal may be coloured by a task, not steered. What passes: SGR sequences, UTF-8 beyond the C1
# controls, tabs, returns and line ends. Sequences are dropped whole; a lone control shows as a dot.
_STRING = (
    rb"(?:\x1b[\]PX^_]|\xc2[\x90\x98\x9d-\x9f])"
    rb"[^\x07\x1b\n\x18\x1a]{0,4096}(?:\x07|\x1b\\|\xc2\x9c)?"
)
STEERING = re.compile(
    rb"(?P<keep>\x1b\[[0-9;:]*m|[\xc3-\xdf][\x80-\xbf]|\xc2[\xa0-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}"
    rb"|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
    rb"|(?P<drop>(?:\x1b\[|\xc2\x9b)[0-?]*[ -/]*[@-~]|" + _STRING + rb"|\x1b[ -/]*[0-Z\\`-~])"
    rb"|(?P<dot>\x1b|\xc2[\x80-\x9f]|[\x80-\x9f]|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f])"
)
# The beginning of a sequence or character whose rest may come with the next chunk.
UNFINISHED = re.compile(
    rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n\x18\x1a]{0,4096}\x1b?|[ -/]*)"
    rb"|\xc2(?:\x9b[0-?]*[ -/]*|[\x90\x98\x9d-\x9f][^\x07\x1b\n\x18\x1a]{0,4096})?"
    rb"|[\xc3-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)
UNFINISHED_BYTES = 5000
COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")


def safe(data: bytes) -> bytes:
    """Output without what would steer the terminal."""
    return STEERING.sub(lambda m: m["keep"] or (b"" if m["drop"] else b"."), data)


def safe_text(text: str) -> str:
    """The same for words of others in messages and tables."""
    return safe(text.encode(errors="replace")).decode(errors="replace")


def one_line(value: object) -> str:
    """A word of others as a part of a line; `-` for one that is missing."""
    return "-" if value is None else " ".join(safe_text(str(value)).split())


def figure(value: float | None, form: str) -> str:
    """A number in a format; `?` for what a broken node or another version made of it."""
    return "?" if value is None else format(value, form)


def coloured(text: str, colour: int, *, on: bool) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if on else text


class Printer:
    """Writes output of tasks: raw for one task, `node | line` for several.

    Stdout of a task goes to stdout and stderr to stderr, so redirections keep them apart.
    """

    def __init__(self, *, prefix: bool) -> None:
        self._prefix = prefix
        self._sinks: dict[str, BinaryIO] = {
            "stdout": sys.stdout.buffer,
            "stderr": sys.stderr.buffer,
        }
        self._terminal = {"stdout": sys.stdout.isatty(), "stderr": sys.stderr.isatty()}
        self._rest: dict[tuple[str, str], bytes] = {}
        self._unfinished = dict.fromkeys(self._sinks, b"")
        self._colours: dict[str, int] = {}
        self._width = 0

    def output(self, node: str, task: str, stream: str, data: bytes) -> None:
        """Print what came of one stream; a line is prefixed once it is whole."""
        if not self._prefix:
            self._write(stream, data)
            return
        lines = (self._rest.pop((task, stream), b"") + data).split(b"\n")
        rest = lines.pop()
        if len(rest) > LONGEST_LINE:
            lines.append(rest)
            rest = b""
        if rest:
            self._rest[task, stream] = rest
        if lines:
            self._lines(node, stream, lines)

    def ended(self, node: str, task: str) -> None:
        """A task has ended: print its last, unfinished line."""
        for stream, unfinished in self._unfinished.items():
            self._unfinished[stream] = b""
            self._put(stream, safe(unfinished))
        for stream in self._sinks:
            if rest := self._rest.pop((task, stream), b""):
                self._lines(node, stream, [rest])

    def _lines(self, node: str, stream: str, lines: list[bytes]) -> None:
        """Whole lines behind their node. On a terminal a return does not take it away, and what
        a line sets of colours ends with it."""
        head = self._head(node, stream)
        if self._terminal[stream]:
            lines = [line.rstrip(b"\r").replace(b"\r", b"\x1b[0m\r" + head) for line in lines]
            lines = [line + b"\x1b[0m" if COLOUR.search(line) else line for line in lines]
        self._write(stream, b"".join(head + line + b"\n" for line in lines))

    def _head(self, node: str, stream: str) -> bytes:
        self._width = max(self._width, len(node))
        node = safe_text(node)
        text = f"{node:<{self._width}} |"
        if self._terminal[stream]:
            colour = self._colours.setdefault(node, COLOURS[len(self._colours) % len(COLOURS)])
            mark = coloured("|", 31, on=True) if stream == "stderr" else "|"
            text = f"\x1b[{colour}m{text[:-1]}\x1b[0m{mark}"
        return text.encode() + b" "

    def _write(self, stream: str, data: bytes) -> None:
        if not self._terminal[stream]:
            self._put(stream, data)
            return
        data = self._unfinished[stream] + data
        found = UNFINISHED.search(data, max(0, len(data) - UNFINISHED_BYTES))
        end = len(data) if found is None else found.start()
        self._unfinished[stream] = data[end:]
        self._put(stream, safe(data[:end]))

    def _put(self, stream: str, data: bytes) -> None:
        if data:
            self._sinks[stream].write(data)
            self._sinks[stream].flush()


def say(text: str) -> None:
    """A line for the person, on stderr."""
    shown = safe_text(text) if sys.stderr.isatty() else text
    print(shown, file=sys.stderr, flush=True)


def pointed(text: str, position: int) -> str:
    """A line of text, as much as fits around the position, and a caret under it."""
    start = max(0, position - CARET_WIDTH // 2)
    line = "".join(c if c.isprintable() else " " for c in text[start : start + CARET_WIDTH])
    left, right = "..." * (start > 0), "..." * (start + CARET_WIDTH < len(text))
    before = left + line[: position - start]
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in before)
    return f"  {left}{line}{right}\n  {' ' * (len(before) + wide)}^"


def print_json(value: object) -> None:
    """One JSON document or line on stdout, flushed."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def narrow() -> bool:
    """Whether stdout is a terminal that has no room for wide tables."""
    return sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns < WIDE


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, to_stderr: bool = False
) -> None:
    """A plain table; cells may be coloured by outcome words on a terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    rows = list(rows)
    if len(rows) > FOLDED_ROWS or not stream.isatty():
        stream.writelines(_lines(headers, rows, colour=stream.isatty()))
        stream.flush()
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=to_stderr, highlight=False)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        shown.add_column(header, overflow="fold", no_wrap=header in WHOLE)
    for row in rows:
        shown.add_row(*(Text(safe_text(cell), style=_style(cell)) for cell in row))
    console.print(shown)


def _lines(headers: Sequence[str], rows: Sequence[Sequence[str]], *, colour: bool) -> Iterator[str]:
    """The same table without folding: rich needs milliseconds for a row, and a fleet has thousands.
    Each cell is one line here."""
    safes = [[" ".join(safe_text(cell).split("\n")) for cell in row] for row in (headers, *rows)]
    widths = [max(map(_width, cells)) for cells in zip(*safes, strict=True)]
    for at, cells in enumerate(safes):
        padded = []
        for cell, width in zip(cells, widths, strict=True):
            style = SGR.get("bold" if at == 0 else _style(cell)) if colour else None
            shown = cell if style is None else f"\x1b[{style}m{cell}\x1b[0m"
            padded.append(shown + " " * (width - _width(cell)))
        yield "  ".join(padded).rstrip() + "\n"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def ago(text: str | None, now: float | None = None) -> str:
    """An RFC 3339 time as `12 s ago`."""
    if not text:
        return "never"
    return f"{_span((time.time() if now is None else now) - _time(text))} ago"


def until(text: str | None, now: float | None = None) -> str:
    """An RFC 3339 time to come as `in 12 s`; one that is over as `12 s ago`."""
    if not text:
        return "never"
    left_s = _time(text) - (time.time() if now is None else now)
    if left_s <= 0:
        return ago(text, now)
    return f"in {_span(left_s + (NEARLY_S if left_s > 60 else 0.99))}"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def took(start: str | None, end: str | None) -> str:
    """The time between two RFC 3339 times, as `1.2 s`; empty while one is missing."""
    if not start or not end:
        return ""
    seconds = _time(end) - _time(start)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(number: int) -> str:
    """A number of bytes as `1.2 MiB`."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def ending(task: dict[str, Any]) -> str:
    """How a task ended, in a few words."""
    outcome = str(task.get("outcome") or task.get("state"))
    if task.get("signal"):
        return f"{outcome}, signal {task['signal']}"
    if task.get("exit_code"):
        return f"{outcome}, exit {task['exit_code']}"
    return outcome


def because(task: dict[str, Any]) -> str:
    """Why a task ended so, in brackets; empty when nobody knows."""
    text = task.get("reason") or task.get("error")
    return f" ({text})" if text else ""


def _style(cell: str) -> str:
    word = cell.partition(",")[0]
    colours = {
        "succeeded": "green",
        "ready": "green",
        "failed": "red",
        "kill_failed": "red",
        "gone": "red",
        "lost": "magenta",
        "timed_out": "yellow",
        "cancelled": "yellow",
        "silent": "yellow",
        "quarantined": "red",
        "running": "cyan",
        "retrying": "yellow",
        "skipped": "yellow",
    }
    return colours.get(word, "")


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
