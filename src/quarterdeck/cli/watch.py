"""`qd watch`: a run from its beginning, or everything that is traced under a name, live."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from quarterdeck.cli.options import fold_by, with_fold, with_namespace
from quarterdeck.cli.render import Printer, ending, one_line, print_json, say, size
from quarterdeck.cli.run import CANCELLED, RETRY_S, follow, output_bytes, raise_error_event
from quarterdeck.client.http import Connection, quote
from quarterdeck.errors import Conflict, Invalid, NotFound, Unavailable

RUN = re.compile(r"last|[0-9a-hjkmnp-tv-z]{1,16}")
AWAY_AFTER_S = 1.5
GAPS = {
    "window": "older than what is kept of a trace",
    "fabric": "the fabric was restarted",
    "dropped": "the sender could not reach the server and had no room left",
    "limit": "beyond what is kept of one trace",
}


@click.command()
@click.option("--node", metavar="ID", help="Only what this sender traces.")
@click.option("--forever", is_flag=True, help="Stay when all have ended, for those that come.")
@with_fold
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.argument("what", metavar="NAME|RUN")
@with_namespace
def watch(server: Connection, what: str, as_json: bool, **given: Any) -> None:
    """Show what is traced under NAME, or RUN from its beginning, live; leave with its exit code.

    A name that nobody uses yet is waited for. When all its senders have ended, the exit code is the
    worst of theirs.
    """
    fold = fold_by(given)
    traced = given["forever"] or given["node"]
    if fold and traced:
        raise Invalid("usage", "--fold is for runs: leave it out, or --node and --forever.")
    if not traced and (fold or _is_run(server, what)):
        sys.exit(follow(server, what, as_json=as_json, may_cancel=False, fold=fold))
    query = {
        "node": given["node"],
        "forever": "true" if given["forever"] else None,
    }
    view = _JsonView() if as_json else _TextView(what, given["node"])
    try:
        for event in _events(server, what, query):
            view.show(event)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    sys.exit(view.exit_code)


def _is_run(server: Connection, what: str) -> bool:
    """Whether a run is meant: a name that is also the beginning of the id of one names the run."""
    if RUN.fullmatch(what) is None:
        return False
    try:
        server.get(f"/v1/runs/{quote(what)}")
    except (NotFound, Conflict):
        return what == "last"
    return True


def _events(
    server: Connection, name: str, query: dict[str, str | None]
) -> Iterator[dict[str, Any]]:
    """The events of a name across broken connections, each once."""
    path, last, connected = f"/v1/trace/{quote(name)}/stream", None, False
    reached: dict[tuple[str, str], int] = {}
    away_since: float | None = None
    told = False
    while True:
        try:
            for event in server.events(path, last, raw=False, **query):
                raise_error_event(event.data)
                connected, away_since = True, None
                if told:
                    say("qd: the server is back.")
                    told = False
                last = event.id or last
                if _is_new(event.data, reached):
                    yield event.data
                if event.data["type"] == "ended":
                    return
        except Unavailable:
            if not connected:
                raise
        away_since = away_since or time.monotonic()
        if not told and time.monotonic() - away_since > AWAY_AFTER_S:
            say("qd: the server is away; what is traced goes on, output will follow.")
            told = True
        time.sleep(RETRY_S)


def _is_new(event: dict[str, Any], reached: dict[tuple[str, str], int]) -> bool:
    """Note how far a stream has come; False for output that was shown before: not every event of
    very many traces carries an id."""
    if event["type"] != "output":
        return True
    key = (event["run"], event["stream"])
    data, known = output_bytes(event), reached.get(key, 0)
    reached[key] = max(known, event["offset"] + len(data))
    if event["offset"] < known < reached[key]:
        event["raw"] = data[known - event["offset"] :]
    return reached[key] > known


class _JsonView:
    """Events as JSON lines, as docs/reference says."""

    exit_code = 0

    def show(self, event: dict[str, Any]) -> None:
        if event["type"] == "ended":
            self.exit_code = int(event["exit_code"])
        if event["type"] != "present":
            print_json(event)


class _TextView:
    """Live output for people, each line with the id of its sender."""

    exit_code = 0

    def __init__(self, name: str, node: str | None) -> None:
        self._who = "nobody" if node is None else f"no sender {one_line(node)}"
        self._name = name
        self._printer = Printer(prefix=True)
        self._labels: dict[str, str] = {}
        self._waits = False

    def show(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "run":
                self._begun(event)
            case "output":
                label = self._labels.get(event["run"], event["node"])
                self._printer.output(label, event["run"], event["stream"], output_bytes(event))
            case "gap":
                self._gap(event)
            case "task":
                self._turned(event)
            case "ended":
                self.exit_code = int(event["exit_code"])
            case "present" if not self._labels and not self._waits:
                self._waits = True
                say(f"qd: {self._who} traces as {self._name} yet: waiting (Ctrl-C leaves).")

    def _begun(self, event: dict[str, Any]) -> None:
        """Two traces of one sender are told apart by a number."""
        node = one_line(event["node"])
        same = sum(1 for label in self._labels.values() if label.partition(" (")[0] == node)
        label = f"{node} ({same + 1})" if same else node
        self._labels[event["id"]] = label
        say(f"qd: {label}: {one_line(event['title'])}")

    def _gap(self, event: dict[str, Any]) -> None:
        label = self._labels.get(event["run"], event["node"])
        why = GAPS.get(event["reason"], event["reason"])
        if event["bytes"]:
            say(f"qd: {label}: {size(event['bytes'])} of {event['stream']} are missing: {why}.")

    def _turned(self, event: dict[str, Any]) -> None:
        label = self._labels.get(event["run"], event["node"])
        if event["state"] != "ended":
            say(f"qd: {label}: is heard again and goes on.")
            return
        self._printer.ended(label, event["run"])
        why = f" ({one_line(event['message'])})" if event["message"] else ""
        say(f"qd: {label}: {ending(event)}{why}")
