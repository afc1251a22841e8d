"""What people see: prefixed live output that is safe for a terminal, tables, and summaries."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, BinaryIO

COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
LONGEST_LINE = 64 << 10
PLAIN_WIDTH = 1000
# A terminal may be coloured by a task, not steered: only SGR sequences, tabs, returns and line
# ends pass.
STEERING = re.compile(
    rb"\x1b\[[0-9;:]*m"
    rb"|(\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[^\[\]PX^_]"
    rb"|\x1b|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f])",
    re.DOTALL,
)
OUTCOME_COLOUR = {
    "succeeded": 32,
    "failed": 31,
    "timed_out": 33,
    "cancelled": 33,
    "lost": 35,
    "kill_failed": 31,
}


def safe(data: bytes) -> bytes:
    """Output without what would steer the terminal; such characters show as `?`-like dots."""
    return STEERING.sub(lambda found: b"" if found[1] and len(found[1]) > 1 else _kept(found), data)


def _kept(found: re.Match[bytes]) -> bytes:
    return b"." if found[1] else found[0]


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
            head = self._head(node, stream)
            self._write(stream, b"".join(head + line + b"\n" for line in lines))

    def ended(self, node: str, task: str) -> None:
        """A task has ended: print its last, unfinished line."""
        for stream in self._sinks:
            if rest := self._rest.pop((task, stream), b""):
                self._write(stream, self._head(node, stream) + rest + b"\n")

    def _head(self, node: str, stream: str) -> bytes:
        self._width = max(self._width, len(node))
        text = f"{node:<{self._width}} |"
        if self._terminal[stream]:
            colour = self._colours.setdefault(node, COLOURS[len(self._colours) % len(COLOURS)])
            mark = coloured("|", 31, on=True) if stream == "stderr" else "|"
            text = f"\x1b[{colour}m{text[:-1]}\x1b[0m{mark}"
        return text.encode() + b" "

    def _write(self, stream: str, data: bytes) -> None:
        sink = self._sinks[stream]
        sink.write(safe(data) if self._terminal[stream] else data)
        sink.flush()


def say(text: str) -> None:
    """A line for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """One JSON document or line on stdout, flushed."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, to_stderr: bool = False
) -> None:
    """A plain table; cells may be coloured by outcome words on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=to_stderr, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        shown.add_column(header, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console.print(shown)


def ago(text: str | None, now: float | None = None) -> str:
    """An RFC 3339 time as `12 s ago`."""
    if not text:
        return "never"
    seconds = (time.time() if now is None else now) - _time(text)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


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
    }
    return colours.get(word, "")


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
