"""`--fold`: equal results become one group, the others are shown by what differs.

On a terminal a live view, drawn in place at most ten times a second; otherwise, and at the end, one
summary whose text depends on the results alone. What tasks wrote is spelled out, never passed on.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TextIO

from quarterdeck.cli.render import coloured, print_json
from quarterdeck.cli.run import output_bytes, say_dropped
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.fold import NOT_PLACED, Group, abbreviated, difference, lines_of, natural
from quarterdeck.core.gather import KEEP_BYTES, STREAMS, Gathering, Sample
from quarterdeck.errors import QuarterdeckError

FRAME_S = 0.1
LIVE_LINES = 6
SUMMARY_LINES = 200
MARKS = {"stdout": "|", "stderr": "!"}
SYNC, UNSYNC = "\x1b[?2026h", "\x1b[?2026l"
RED, GREEN, CYAN, BOLD, DIM = 31, 32, 36, 1, 2


class Codes(Protocol):
    """What turns events into the exit code."""

    def note(self, event: dict[str, Any]) -> None: ...

    def exit_code(self) -> int: ...


class FoldView:
    """Shows the events of a run in groups. `by`: `result` or `stdout`."""

    def __init__(self, server: Connection, codes: Codes, *, by: str, as_json: bool) -> None:
        self._codes = codes
        self._json = as_json
        self._gathering = Gathering(by_stdout=by == "stdout")
        self._cut: dict[str, dict[str, Any]] = {}
        self._report = Report(server, self._gathering)
        self._live = None if as_json or not sys.stdout.isatty() else _Live(self._report)

    def show(self, event: dict[str, Any]) -> None:
        """One event of the run."""
        self._codes.note(event)
        with self._report.turn:
            id = self._take(event)
        match event["type"]:
            case "run" if self._json:
                print_json(event)
            case "run" if self._live is not None:
                self._live.start()
            case "task" if self._json and id:
                print_json(_joined(event, id, self._gathering))
            case "ended":
                self._finish(event)

    def exit_code(self) -> int:
        return self._codes.exit_code()

    def close(self) -> None:
        """Stop drawing; what is drawn is taken away."""
        if self._live is not None:
            self._live.stop()

    def _take(self, event: dict[str, Any]) -> str:
        """The group of a task that has ended now, else empty."""
        match event["type"]:
            case "run":
                self._report.run, self._report.total = event["id"], event["nodes"]
            case "output":
                where = (event["task"], event["node"], event["attempt"], event["stream"])
                self._gathering.output(*where, event["offset"], output_bytes(event))
            case "task" if event["state"] == "ended":
                if event.get("dropped"):
                    self._cut[event["task"]] = event
                if event["task"] not in self._gathering.results:
                    how = (event["outcome"] or "", event["exit_code"], event["signal"])
                    return self._gathering.ended(event["task"], event["node"], *how)
            case "task" if event["state"] == "running":
                self._gathering.began(event["task"], event["node"])
        return ""

    def _finish(self, event: dict[str, Any]) -> None:
        self.close()
        if self._json:
            for group in self._gathering.groups():
                print_json(self._report.as_json(group))
            print_json(event)
            return
        counts = ", ".join(f"{n} {k}" for k, n in event["counts"].items() if n and k != "total")
        write(self._report.summary(width=None))
        for task in self._cut.values():
            say_dropped(task)
        write([f"run {event['id']} {event['outcome']}: {counts or 'no task'}"])


def _joined(event: dict[str, Any], id: str, gathering: Gathering) -> dict[str, Any]:
    result = gathering.results[event["task"]]
    return {
        "type": "fold",
        "task": event["task"],
        "node": event["node"],
        "group": id,
        "outcome": result.outcome,
        "exit_code": result.exit_code,
    }


def show_fold(server: Connection, run_id: str, *, by: str, as_json: bool) -> None:
    """Print the groups of a run as the server has them, without reading all of its output."""
    found = server.get(f"/v1/runs/{quote(run_id)}/fold", by=by)
    if as_json:
        print_json(found)
        return
    report = Report(server, Gathering(by_stdout=by == "stdout"))
    report.run, report.total = found["id"], found["total"]
    report.load(found)
    write(report.summary(width=None))
    if found["open"]:
        write([f"{found['open']} not ended: {found['open_nodes']}"])


class Report:
    """The groups as lines of text. `turn` is held by whoever reads or changes what was gathered."""

    def __init__(self, server: Connection, gathering: Gathering) -> None:
        self.turn = threading.RLock()
        self.run = ""
        self.total = 0
        self._server = server
        self._gathering = gathering
        self._colour = sys.stdout.isatty()
        self._loaded: list[dict[str, Any]] | None = None
        self._samples: dict[str, Sample] = gathering.samples

    def load(self, found: dict[str, Any]) -> None:
        """Take the groups from an answer of the server."""
        self._loaded = found["groups"]
        for group in found["groups"]:
            wrote = any(group[stream]["bytes"] for stream in STREAMS)
            fetched = self._fetched(group["sample_output"]) if wrote else Sample()
            self._samples[group["id"]] = fetched

    def groups(self) -> list[dict[str, Any]]:
        """The groups in their order, as the API describes them."""
        if self._loaded is not None:
            return self._loaded
        return [_described(group) for group in self._gathering.groups()]

    def as_json(self, group: Group) -> dict[str, Any]:
        """A group as the last events of `--json --fold` tell it."""
        sample = self._samples[group.id]
        texts = {
            stream: bytes(sample.streams[stream]).decode(errors="replace") for stream in STREAMS
        }
        return {"type": "group", **_described(group), "sample": {**texts, "whole": sample.whole}}

    def summary(self, *, width: int | None, most: int = SUMMARY_LINES) -> list[str]:
        """Every group with its output, or with what differs from the largest."""
        lines: list[str] = []
        first: dict[str, Any] | None = None
        for group in self.groups():
            lines.append(self._head(group, width))
            lines += self._body(group, first, most, width)
            first = first or group
        return lines

    def live(self, width: int, height: int, took_s: float) -> list[str]:
        """What fits on a screen."""
        running = self._gathering.running()
        ended = len(self._gathering.results)
        lines = [
            _cut(f"run {self.run}: {ended} of {self.total} ended, {took_s:.0f} s", width, (BOLD,))
        ]
        room = height - min(4, len(running) + bool(running))
        groups, first = self.groups(), None
        for number, group in enumerate(groups):
            body = self._body(group, first, LIVE_LINES, width, fetch=False)
            first = first or group
            left = len(groups) - number - 1
            space = room - len(lines) - 1 - bool(left)
            if space < 0:
                lines.append(_cut(f"and {left + 1} more groups", width, (DIM,)))
                break
            lines += [self._head(group, width), *body[:space]]
        if running:
            nodes = abbreviated(node or NOT_PLACED for node, _ in running)
            lines.append(_cut(f"{len(running)} running: {nodes}", width, (CYAN,)))
            told = sorted((one for one in running if one[1].strip()), key=lambda o: natural(o[0]))
            for node, last in told[: max(0, min(3, height - len(lines)))]:
                said = lines_of(last.rstrip(b"\n") + b"\n")[-1]
                lines.append(_cut(f"  {node} | {said}", width, (DIM,)))
        return lines[:height]

    def _head(self, group: dict[str, Any], width: int | None) -> str:
        how = group["outcome"]
        if group["signal"]:
            how += f", signal {group['signal']}"
        elif group["exit_code"]:
            how += f", exit {group['exit_code']}"
        what = f"{group['count']} the same" if group["count"] > 1 else "1 node"
        colour = GREEN if group["outcome"] == "succeeded" else RED
        text = f"{what}, {how}: {group['nodes']}"
        return _cut(text, width, (BOLD, colour) if self._colour else ())

    def _body(
        self,
        group: dict[str, Any],
        first: dict[str, Any] | None,
        most: int,
        width: int | None,
        *,
        fetch: bool = True,
    ) -> list[str]:
        sample = self._sample(group, fetch=fetch)
        lines = []
        against = None if first is None else self._sample(first, fetch=fetch)
        for stream in STREAMS:
            own = lines_of(bytes(sample.streams[stream]))
            mark = MARKS[stream]
            if against is None or not self._comparable(own, against, stream):
                part = [f"  {mark} {line}" for line in own]
            else:
                other = lines_of(bytes(against.streams[stream]))
                part = [f"  {mark} {line}" for line in difference(other, own)]
            lines += self._capped(part, most, group)
        if not sample.whole:
            lines.append("  … there is more: " + self._hint(group))
        return [_cut(line, width, _paint(line) if self._colour else ()) for line in lines]

    def _comparable(self, own: list[str], against: Sample, stream: str) -> bool:
        """Whether a difference says more than the output itself: they share something."""
        other = lines_of(bytes(against.streams[stream]))
        return own == other or not set(own).isdisjoint(other)

    def _capped(self, lines: list[str], most: int, group: dict[str, Any]) -> list[str]:
        if len(lines) <= most:
            return lines
        return [*lines[: most - 1], f"  … {len(lines) - most + 1} more lines: {self._hint(group)}"]

    def _hint(self, group: dict[str, Any]) -> str:
        return f"qd logs {self.run} --node {group['sample_node']}"

    def _sample(self, group: dict[str, Any], *, fetch: bool) -> Sample:
        sample = self._samples[group["id"]]
        small = sum(group[stream]["bytes"] for stream in STREAMS) > 0 and sample.size < KEEP_BYTES
        if fetch and not sample.whole and small:  # it was crowded out while it ran
            path = f"/v1/runs/{self.run}/output?node={quote(group['sample_node'])}"
            sample = self._samples[group["id"]] = self._fetched(path)
        return sample

    def _fetched(self, path: str) -> Sample:
        sample = Sample()
        try:
            for stream in STREAMS:
                pieces = self._server.stream(f"{path}&stream={stream}&length={KEEP_BYTES + 1}")
                data = b"".join(pieces)
                sample.whole = sample.whole and len(data) <= KEEP_BYTES
                sample.streams[stream] += data[:KEEP_BYTES]
        except QuarterdeckError:
            sample.whole = False
        return sample


def _described(group: Group) -> dict[str, Any]:
    sample = group.sample
    return {
        "id": group.id,
        "count": group.count,
        "nodes": group.nodes,
        "outcome": sample.outcome,
        "exit_code": sample.exit_code,
        "signal": sample.signal,
        "stdout": {"bytes": sample.stdout.bytes, "sha256": sample.stdout.sha256},
        "stderr": {"bytes": sample.stderr.bytes, "sha256": sample.stderr.sha256},
        "sample_node": sample.node,
        "tasks": [result.task for result in group.results],
    }


def _paint(line: str) -> tuple[int, ...]:
    match line[4:5]:
        case "+":
            return (GREEN,)
        case "-":
            return (RED,)
        case "@":
            return (CYAN,)
        case _:
            return ()


def _cut(text: str, width: int | None, style: tuple[int, ...] = ()) -> str:
    """A line that fits, counted in columns."""
    if width is not None:
        from rich.cells import cell_len, set_cell_size

        if cell_len(text) > width:
            text = set_cell_size(text, width - 1).rstrip() + "…"
    for colour in style:
        text = coloured(text, colour, on=True)
    return text


def write(lines: list[str]) -> None:
    """Lines on stdout."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


class _Aside(io.TextIOBase):
    """Standard error while something is drawn: what is said goes above the picture."""

    def __init__(self, real: TextIO, erase: Callable[[], None]) -> None:
        self.real = real
        self._erase = erase

    def write(self, text: str) -> int:
        self._erase()
        return self.real.write(text)

    def flush(self) -> None:
        self.real.flush()

    def isatty(self) -> bool:
        return self.real.isatty()


class _Live:
    """Draws a report in place, in a thread, so that time passes also when nothing comes."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._drawn: list[str] = []

    def start(self) -> None:
        if self._thread is None:
            sys.stderr = _Aside(sys.stderr, self._erase)
            self._thread = threading.Thread(target=self._draw_on, name="fold", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Take away what is drawn. May be called twice."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if isinstance(sys.stderr, _Aside):
            sys.stderr = sys.stderr.real
        self._erase()

    def _erase(self) -> None:
        with self._report.turn:
            if self._drawn:
                sys.stdout.write(f"\x1b[{len(self._drawn)}A\r\x1b[J")
                sys.stdout.flush()
                self._drawn = []

    def _draw_on(self) -> None:
        pause_s = FRAME_S
        while not self._stopped.wait(pause_s):
            width, height = shutil.get_terminal_size()
            began = time.monotonic()
            with self._report.turn:
                lines = self._report.live(width - 1, max(4, height - 1), began - self._began)
                with suppress(OSError):  # nobody looks any more
                    self._draw(lines)
            # of many thousand tasks a picture takes a while: events come first
            pause_s = max(FRAME_S, 4 * (time.monotonic() - began))

    def _draw(self, lines: list[str]) -> None:
        """Write only lines that changed, in one piece."""
        if lines == self._drawn:
            return
        old = self._drawn
        up = f"\x1b[{len(old)}A" if old else ""
        parts = [
            "\x1b[B" if n < len(old) and old[n] == line else f"{line}\x1b[K\n"
            for n, line in enumerate(lines)
        ]
        sys.stdout.write(f"{SYNC}{up}\r{''.join(parts)}\x1b[J{UNSYNC}")
        sys.stdout.flush()
        self._drawn = lines
