"""`qd run`: start a run, follow it live, leave with an honest exit code."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Protocol

import click

from quarterdeck.cli.options import Duration, Size, aiming, fold_by, with_fold, with_namespace
from quarterdeck.cli.order import order_body
from quarterdeck.cli.plan import plan_body, with_plan
from quarterdeck.cli.preview import show_preview
from quarterdeck.cli.render import Printer, because, ending, print_json, say, size, table, until
from quarterdeck.cli.why import Why
from quarterdeck.client.http import Connection, Event, quote
from quarterdeck.core.fold import NOT_PLACED, natural
from quarterdeck.errors import Conflict, QuarterdeckError, Unavailable, error_for_status

RETRY_S = 0.25
SAY_AWAY_AFTER_S = 1.5
START_TRIES_S = 15.0
TASKS_SHOWN = 50
TIMED_OUT = 124
CANCELLED = 130


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("-t", "--target", required=True, help="Nodes: names, ids, globs, labels, `all`.")
@click.option("--script", type=click.Path(), help="Send this file (- for standard input) instead.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="A variable of the task.")
@click.option("--cwd", help="Directory on the node to run in.")
@click.option("--stdin", "stdin_file", type=click.Path(), help="Send this file as standard input.")
@click.option("--timeout", type=Duration(), default=0.0, help="Stop an attempt after this time.")
@click.option("--grace", type=Duration(), default=10.0, help="From TERM to KILL (default 10s).")
@click.option("--max-output", type=Size(), help="Keep so much output (default 1G; 0: all).")
@click.option(
    "--leftovers",
    type=click.Choice(["keep", "kill"]),
    default="keep",
    help="What becomes of processes that outlive the command.",
)
@click.option(
    "--lost-after",
    type=Duration(),
    default=0.0,
    help="Give up (and kill) when the node had no server for this long.",
)
@click.option(
    "--offline",
    default="60s",
    metavar="TIME|fail",
    help="How long a node that is away may take to come back.",
)
@with_plan
@click.option("--user", help="Run as this user of the node (name or uid).")
@click.option("--pty", is_flag=True, help="Give the command a terminal of this one's size.")
@click.option("--umask", metavar="MODE", help="File mode mask of the command, as 022.")
@click.option(
    "--start-timeout",
    type=Duration(),
    default=60.0,
    help="Give up when the command has not begun by then (default 60s).",
)
@click.option("--title", default="", help="What lists show for this run.")
@click.option(
    "--preview", is_flag=True, help="Show who would be hit, and who waits; start nothing."
)
@click.option("--detach", is_flag=True, help="Print the run and return at once.")
@with_fold
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@with_namespace
def run(server: Connection, **given: Any) -> None:
    """Run COMMAND on the target nodes and show its output live.

    After `--` one word is text for /bin/sh, several words are a program and its arguments.
    """
    as_json, fold = given["as_json"], fold_by(given)
    body = order_body(given) | plan_body(given)
    with aiming(given["target"]):
        if given["preview"]:
            show_preview(server.post("/v1/runs/preview", body), as_json=as_json)
            return
        started = post_once(server, "/v1/runs", body)
    if given["detach"]:
        if as_json:
            print_json({"type": "run", "id": started["id"], "state": started["state"]})
        else:
            print(started["id"])
        return
    sys.exit(follow(server, started["id"], as_json=as_json, may_cancel=True, fold=fold))


def follow(
    server: Connection, run_id: str, *, as_json: bool, may_cancel: bool, fold: str = ""
) -> int:
    """Print a run's events until its end; the exit code for it.

    Ctrl-C asks to cancel (when allowed) and goes on watching; the second one leaves.
    """
    view = _view(server, as_json=as_json, fold=fold)
    events = _Stream(server, run_id, raw=bool(fold) or not as_json)
    with closing(view), closing(Why(server, run_id, on=not (as_json or fold))) as why:
        return _followed(server, events, view, why, may_cancel=may_cancel)


def _followed(
    server: Connection, events: _Stream, view: View, why: Why, *, may_cancel: bool
) -> int:
    asked = not may_cancel
    while True:
        try:
            for event in events:
                why.heard(event)
                view.show(event)
            return view.exit_code()
        except KeyboardInterrupt:
            if asked:
                say(f"\nqd: no longer watching; follow it with `qd watch {events.run_id}`.")
                return CANCELLED
            asked = True
            say("\nqd: cancelling; press Ctrl-C again to stop watching; the cancel goes on.")
            _cancel(server, events.run_id)


class View(Protocol):
    """What shows the events of a run. `close` may be called at any time, and more than once."""

    def show(self, event: dict[str, Any]) -> None: ...

    def exit_code(self) -> int: ...

    def close(self) -> None: ...


def _view(server: Connection, *, as_json: bool, fold: str) -> View:
    if fold:
        from quarterdeck.cli.fold import FoldView

        return FoldView(server, _Codes(), by=fold, as_json=as_json)
    return _JsonView() if as_json else _TextView()


class _Stream:
    """The events of a run across broken connections: goes on after the last one seen."""

    def __init__(self, server: Connection, run_id: str, *, raw: bool) -> None:
        self._server = server
        self._raw = raw
        self.run_id = run_id
        self._last: str | None = None
        self._seen_run = False
        self._over = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        away_since: float | None = None
        told = False
        while not self._over:
            try:
                for event in self._server.events(self._path(), self._last, raw=self._raw):
                    if event.data["type"] != "run":
                        away_since = None
                        if told:
                            say("qd: the server is back.")
                            told = False
                    if self._take(event):
                        yield event.data
            except Unavailable:
                if not self._seen_run:
                    raise
            if self._over:
                return
            away_since = away_since or time.monotonic()
            if not told and time.monotonic() - away_since > SAY_AWAY_AFTER_S:
                say("qd: the server is away; tasks go on, output will follow.")
                told = True
            time.sleep(RETRY_S)

    def _path(self) -> str:
        return f"/v1/runs/{quote(self.run_id)}/events"

    def _take(self, event: Event) -> bool:
        """Note how far we are; False for what was shown before. Raises what the server met."""
        raise_error_event(event.data)
        self._last = event.id or self._last
        kind = event.data["type"]
        self._over = kind == "ended"
        if kind != "run":
            return True
        self.run_id = event.data["id"]
        first, self._seen_run = not self._seen_run, True
        return first


class _JsonView:
    """Events as JSON lines, as docs/reference says."""

    def __init__(self) -> None:
        self._codes = _Codes()
        self._told: set[tuple[str, str]] = set()

    def show(self, event: dict[str, Any]) -> None:
        self._codes.note(event)
        if event["type"] == "task":
            told = (event["task"], event["attempt"] if event["state"] == "retrying" else "")
            if event["state"] not in ("ended", "retrying") or told in self._told:
                return
            self._told.add(told)
        print_json(event)

    def exit_code(self) -> int:
        return self._codes.exit_code()

    def close(self) -> None:
        """Nothing is left open."""


class _TextView:
    """Live output for people, then a table when several nodes took part."""

    def __init__(self) -> None:
        self._codes = _Codes()
        self._printer = Printer(prefix=False)
        self._ended: dict[str, dict[str, Any]] = {}
        self._nodes = 0
        self._again: set[str] = set()
        self._offsets: dict[tuple[str, str], int] = {}
        self._ran_on: dict[str, str] = {}  # by task: it may have moved on, or wait for a node

    def show(self, event: dict[str, Any]) -> None:
        self._codes.note(event)
        match event["type"]:
            case "run":
                self._nodes = event["nodes"]
                self._printer = Printer(prefix=self._nodes != 1)
            case "output":
                self._output(event)
            case "task" if event["state"] == "ended":
                self._printer.ended(event["node"], event["task"])
                self._ended[event["task"]] = event
            case "task" if event["state"] == "retrying":
                self._retrying(event)
            case "task" if event["node"]:
                self._ran_on[event["task"]] = event["node"]
            case "ended":
                self._summary(event)

    def exit_code(self) -> int:
        return self._codes.exit_code()

    def close(self) -> None:
        """Nothing is left open."""

    def _retrying(self, event: dict[str, Any]) -> None:
        if event["attempt"] in self._again:
            return
        self._again.add(event["attempt"])
        node = self._ran_on.pop(event["task"], event["node"]) or NOT_PLACED
        self._printer.ended(node, event["task"])
        number = int(event["attempt"].rpartition("-")[2])
        when = until(event["not_before"])
        when = "at once" if when.endswith("ago") else when
        say(f"qd: {node}: attempt {number - 1} failed; attempt {number} {when}.")

    def _output(self, event: dict[str, Any]) -> None:
        data = output_bytes(event)
        self._ran_on[event["task"]] = event["node"]
        key = (event["attempt"], event["stream"])
        known = self._offsets.get(key, 0)
        fresh = data[max(0, known - event["offset"]) :]
        self._offsets[key] = max(known, event["offset"] + len(data))
        if fresh:
            self._printer.output(event["node"], event["task"], event["stream"], fresh)

    def _summary(self, event: dict[str, Any]) -> None:
        for one in self._ended.values():
            say_dropped(one)
        if self._nodes == 1:
            task = next(iter(self._ended.values()), None)
            if task is not None and task["outcome"] != "succeeded":
                say(f"qd: {task['node'] or NOT_PLACED}: {ending(task)}{because(task)}")
            return
        say("")
        few = self._nodes <= TASKS_SHOWN
        rows = [
            (task["node"] or NOT_PLACED, ending(task), task["reason"] or task["error"] or "")
            for task in sorted(self._ended.values(), key=lambda task: natural(task["node"]))
            if few or task["outcome"] != "succeeded"
        ]
        if rows:
            table(("NODE", "RESULT", ""), rows, to_stderr=True)
        counts = ", ".join(
            f"{number} {name}"
            for name, number in event["counts"].items()
            if number and name != "total"
        )
        why = f"; {event['reason']}" if event["reason"] else ""
        say(f"run {event['id']} {event['outcome']}: {counts or 'no task'}{why}")


class _Codes:
    """The exit code of the CLI, from what was seen."""

    def __init__(self) -> None:
        self._nodes = 0
        self._task: dict[str, Any] = {}
        self._outcome = ""

    def note(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "run":
                self._nodes = event["nodes"]
            case "task":
                self._task = event
            case "ended":
                self._outcome = event["outcome"]

    def exit_code(self) -> int:
        if self._outcome == "succeeded":
            return 0
        if self._outcome == "timed_out":
            return TIMED_OUT
        if self._outcome == "cancelled":
            return CANCELLED
        if self._nodes == 1 and self._outcome == "failed":
            if self._task.get("exit_code"):
                return int(self._task["exit_code"])
            if self._task.get("signal"):
                return 128 + int(self._task["signal"])
        return 1


def say_dropped(task: dict[str, Any]) -> None:
    """How much a task wrote beyond its limit."""
    if task.get("dropped"):
        lost = size(task["dropped"])
        say(f"qd: {task['node']}: {lost} of output beyond --max-output were dropped.")


def raise_error_event(data: dict[str, Any]) -> None:
    """An `error` event becomes the error it stands for."""
    if data["type"] == "error":
        raise error_for_status(int(data["status"]))(data["code"], data["detail"])


def output_bytes(event: dict[str, Any]) -> bytes:
    """The bytes of an output event."""
    if (raw := event.get("raw")) is not None:
        return bytes(raw)
    if (text := event.get("data")) is not None:
        return str(text).encode()
    return base64.b64decode(event.get("data_b64") or "")


def _cancel(server: Connection, run_id: str) -> None:
    """Ask to cancel, once: a connection that breaks is tried again with the same number."""
    until = time.monotonic() + START_TRIES_S
    while True:
        try:
            server.post(f"/v1/runs/{quote(run_id)}/cancel?nth=1")
            return
        except Conflict:
            return
        except Unavailable as error:
            if time.monotonic() > until:
                say(f"qd: could not cancel: {error.message}")
                return
            time.sleep(RETRY_S)
        except QuarterdeckError as error:
            say(f"qd: could not cancel: {error.message}")
            return


def post_once(server: Connection, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask; a connection that breaks is tried again with the same key: nothing is done twice."""
    key = os.urandom(16).hex()
    until = time.monotonic() + START_TRIES_S
    while True:
        try:
            answer: dict[str, Any] = server.post(path, body, {"Idempotency-Key": key})
            return answer
        except Unavailable as error:
            if error.code != "connection_lost" or time.monotonic() > until:
                raise
            time.sleep(RETRY_S)
