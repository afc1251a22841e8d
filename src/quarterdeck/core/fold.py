"""Folding: results that are the same become one group; what differs is shown as a difference.

Rules:
1. The key of a result is its outcome, exit code, signal and the SHA-256 of both streams (or of
   stdout alone). It does not depend on how output was cut into chunks or when it came.
2. Groups are in a fixed order: the largest first, then by outcome and exit code, then by the first
   name. Every other group is compared with the first.
3. What others wrote becomes text that steers nothing: whatever is not printable is spelled out, so
   two outputs that differ in an escape sequence look different.
4. Comparing is bounded in lines on both sides and in what it returns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from quarterdeck.core.model import Record

ID_BYTES = 6
MAX_LINES = 800  # compared on either side, after what begins and ends alike
MAX_DIFF_LINES = 400
MAX_LINE = 400
CONTEXT = 2
NameKey = tuple[tuple[str, int, str], ...]
NOT_PLACED = "(not placed)"  # of a pick's task that never got a node
NO_LINE_END = " (no line end)"
HUNK = re.compile(r"@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@")
DIGITS = re.compile(r"([0-9]+)")


class StreamSum(Record, frozen=True, kw_only=True):
    """One stream of a result, as far as it was kept: its length and hash."""

    bytes: int = 0
    sha256: str = ""


class Result(Record, frozen=True, kw_only=True):
    """What became of one task."""

    task: str
    node: str
    node_id: str = ""
    outcome: str
    exit_code: int | None = None
    signal: int | None = None
    stdout: StreamSum = StreamSum()
    stderr: StreamSum = StreamSum()


class Group(Record, frozen=True, kw_only=True):
    """Tasks with the same result, in the order of their names. The first is the sample."""

    id: str
    results: tuple[Result, ...]

    @property
    def count(self) -> int:
        return len(self.results)

    @property
    def sample(self) -> Result:
        return self.results[0]

    @property
    def nodes(self) -> str:
        """The names, abbreviated."""
        return abbreviated(result.node or NOT_PLACED for result in self.results)


def group_id(result: Result, *, by_stdout: bool = False) -> str:
    """The key of a result as a short word."""
    streams = [result.stdout] if by_stdout else [result.stdout, result.stderr]
    words = [result.outcome, str(result.exit_code), str(result.signal)]
    words += [f"{s.bytes} {s.sha256 if s.bytes else ''}" for s in streams]
    return blake2b("\0".join(words).encode(), digest_size=ID_BYTES).hexdigest()


def grouped(results: Iterable[Result], *, by_stdout: bool = False) -> list[Group]:
    """The groups in their order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(group_id(result, by_stdout=by_stdout), []).append(result)
    groups = [
        Group(id=id, results=tuple(sorted(same, key=lambda one: (natural(one.node), one.task))))
        for id, same in found.items()
    ]
    return sorted(groups, key=_place)


def _place(group: Group) -> tuple[object, ...]:
    sample = group.sample
    best = sample.outcome != "succeeded"
    return (-group.count, best, sample.outcome, sample.exit_code or 0, natural(sample.node))


def natural(name: str) -> NameKey:
    """A sort key that puts web-2 before web-10."""
    parts = DIGITS.split(name)
    return tuple(
        (text, int(digits), digits)
        for text, digits in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    )


def abbreviated(names: Iterable[str]) -> str:
    """Names in short: `db,web-[1-3,7]`; each once. Expanding gives all of them, and no other."""
    families: dict[tuple[str, str], set[str]] = {}
    alone = set()
    for name in names:
        head, digits, tail = _split(name)
        if digits:
            families.setdefault((head, tail), set()).add(digits)
        else:
            alone.add(name)
    words = [(natural(name), name) for name in alone]
    for (head, tail), numbers in families.items():
        words += _family(head, tail, numbers)
    return ",".join(word for _, word in sorted(words))


def _split(name: str) -> tuple[str, str, str]:
    """(before, number, after): the last number of the first label of a host name, or of the
    whole when that has none."""
    label, dot, domain = name.partition(".")
    for text, rest in ((label, dot + domain), (name, "")):
        found = list(DIGITS.finditer(text))
        if found:
            start, end = found[-1].span()
            return text[:start], text[start:end], text[end:] + rest
    return name, "", ""


def _family(head: str, tail: str, numbers: set[str]) -> list[tuple[NameKey, str]]:
    """Numbers with leading zeros go together by their width, the others among themselves."""
    padded = {len(digits) for digits in numbers if digits[0] == "0" and len(digits) > 1}
    by_width: dict[int, list[int]] = {}
    for digits in numbers:
        width = len(digits) if len(digits) in padded else 0
        by_width.setdefault(width, []).append(int(digits))
    words: list[tuple[NameKey, str]] = []
    for width, values in by_width.items():
        runs = _runs(sorted(values))
        first = f"{head}{runs[0][0]:0{width}}{tail}"
        inside = ",".join(
            f"{a:0{width}}" if a == b else f"{a:0{width}}-{b:0{width}}" for a, b in runs
        )
        word = first if len(values) == 1 else f"{head}[{inside}]{tail}"
        words.append((natural(first), word))
    return words


def _runs(values: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return runs


def shown(line: str) -> str:
    """A line as text that steers no terminal: what is not printable is spelled out."""
    text = line[: MAX_LINE + 1].expandtabs(8)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _spelled(c) for c in text)
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}…"


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", errors="replace").decode()


def lines_of(data: bytes) -> list[str]:
    """Output as lines fit to be shown; a last line without its end is marked."""
    if not data:
        return []
    text = data.decode(errors="backslashreplace")
    lines = text.split("\n")
    last = lines.pop()
    found = [shown(line.removesuffix("\r")) for line in lines]
    return [*found, shown(last) + NO_LINE_END] if last else found


def difference(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A unified diff without its head, bounded: the lines that differ with a few around them."""
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    end = 0
    while end < min(len(first), len(second)) - start and first[-1 - end] == second[-1 - end]:
        end += 1
    before = max(0, start - CONTEXT)
    old = first[before : max(before, len(first) - max(0, end - CONTEXT))]
    new = second[before : max(before, len(second) - max(0, end - CONTEXT))]
    cut = max(len(old), len(new)) > MAX_LINES
    changed = difflib.unified_diff(old[:MAX_LINES], new[:MAX_LINES], n=CONTEXT, lineterm="")
    lines = [_moved(line, before) for line in list(changed)[2:]]
    if len(lines) > MAX_DIFF_LINES:
        lines, cut = lines[:MAX_DIFF_LINES], True
    return [*lines, "… there is more that differs"] if cut else lines


def _moved(line: str, by: int) -> str:
    """The head of a hunk with the numbers of the whole."""
    found = HUNK.fullmatch(line)
    if found is None:
        return line
    old, new = int(found[1]) + by, int(found[3]) + by
    return f"@@ -{old}{found[2] or ''} +{new}{found[4] or ''} @@"
