"""`qd logs`: the stored output of a run, exact with `--raw`, readable without."""

from __future__ import annotations

import sys
from typing import Any

import click

from quarterdeck.cli.options import fold_by, with_fold, with_server
from quarterdeck.cli.render import Printer, print_json
from quarterdeck.cli.run import follow, output_bytes, raise_error_event
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.fold import natural
from quarterdeck.errors import Conflict, Invalid, NotFound, Unavailable

STREAMS = ("stdout", "stderr")


@click.command()
@click.option("--node", help="Only the task on this node (name or id).")
@click.option("--stream", type=click.Choice(STREAMS), help="Only this stream.")
@click.option("--raw", is_flag=True, help="The exact bytes; stderr goes to stderr.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), help="Only the last N lines of each stream."
)
@click.option("--offset", type=click.IntRange(min=0), help="With --raw: from this byte on.")
@click.option("--length", type=click.IntRange(min=0), help="With --raw: at most so many bytes.")
@click.option("-f", "--follow", "follow_it", is_flag=True, help="Go on until the run ends.")
@with_fold
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.argument("run_id", metavar="RUN")
@with_server
def logs(server: Connection, run_id: str, **given: Any) -> None:
    """Print the output of RUN (an id, the beginning of one, or `last`)."""
    _check(given)
    fold, as_json = fold_by(given), given["as_json"]
    if given["follow_it"]:
        sys.exit(follow(server, run_id, as_json=as_json, may_cancel=False, fold=fold))
    if fold:
        from quarterdeck.cli.fold import show_fold

        show_fold(server, run_id, by=fold, as_json=as_json)
        return
    run = server.get(f"/v1/runs/{quote(run_id)}")
    placed = [t for t in run["tasks"] if t["node_id"]]  # of a pick: the others wrote nothing
    tasks = [t for t in placed if given["node"] in (None, t["node"], t["node_id"])]
    if not tasks and (placed or given["raw"] or given["node"] is not None):
        names = ", ".join(sorted({t["node"] for t in placed}, key=natural)[:8]) or "none on a node"
        raise NotFound("task_not_found", f"Run {run['id']} has no task there; it has: {names}.")
    streams = [given["stream"]] if given["stream"] else list(STREAMS)
    if given["raw"]:
        _raw(server, run, tasks, streams, given)
    elif given["lines"] is not None:
        _last_lines(server, run, tasks, streams, given["lines"])
    else:
        _events(server, run, {t["id"] for t in tasks}, streams, as_json=given["as_json"])


def _check(given: dict[str, Any]) -> None:
    """Refuse what would be ignored."""
    shaped = [name for name in ("raw", "lines", "node", "stream") if given[name]]
    if given["follow_it"] and shaped:
        raise Invalid("usage", f"--follow shows everything: leave --{shaped[0]} out.")
    if fold_by(given) and shaped:
        raise Invalid("usage", f"--fold shows every task and stream: leave --{shaped[0]} out.")
    if not given["raw"] and (given["offset"] is not None or given["length"] is not None):
        raise Invalid("usage", "--offset and --length go with --raw.")
    if given["as_json"] and (given["raw"] or given["lines"] is not None):
        raise Invalid("usage", "--json prints events: leave --raw and --lines out.")
    if given["lines"] is not None and (given["offset"] is not None or given["length"] is not None):
        raise Invalid("usage", "--lines names a part already: leave --offset and --length out.")


def _raw(
    server: Connection,
    run: dict[str, Any],
    tasks: list[dict[str, Any]],
    streams: list[str],
    given: dict[str, Any],
) -> None:
    if len(tasks) > 1:
        names = ", ".join(t["node"] for t in tasks[:8])
        raise Conflict(
            "ambiguous_node",
            f"Run {run['id']} went to several nodes ({names}): choose with --node.",
        )
    for stream in streams:
        whole = server.stream(
            f"/v1/runs/{run['id']}/output",
            node=tasks[0]["node_id"],
            stream=stream,
            offset=given["offset"],
            length=given["length"],
            lines=given["lines"],
        )
        sink = sys.stderr.buffer if stream == "stderr" and len(streams) > 1 else sys.stdout.buffer
        for piece in whole:
            sink.write(piece)
        sink.flush()


def _last_lines(
    server: Connection,
    run: dict[str, Any],
    tasks: list[dict[str, Any]],
    streams: list[str],
    lines: int,
) -> None:
    printer = Printer(prefix=len(run["tasks"]) > 1)
    for task in tasks:
        for stream in streams:
            path = f"/v1/runs/{run['id']}/output"
            for piece in server.stream(path, node=task["node_id"], stream=stream, lines=lines):
                printer.output(task["node"], task["id"], stream, piece)
        printer.ended(task["node"], task["id"])


def _events(
    server: Connection,
    run: dict[str, Any],
    tasks: set[str],
    streams: list[str],
    *,
    as_json: bool,
) -> None:
    printer = Printer(prefix=len(run["tasks"]) > 1)
    whole = False
    for event in server.events(f"/v1/runs/{run['id']}/events", None, follow="false"):
        data = event.data
        raise_error_event(data)
        whole = whole or data["type"] == "ended" or bool(data.get("complete"))
        if data.get("task") not in tasks:
            continue
        if data["type"] == "output" and data["stream"] in streams:
            if as_json:
                print_json(data)
            else:
                printer.output(data["node"], data["task"], data["stream"], output_bytes(data))
        elif data["type"] == "task" and data["state"] == "ended":
            printer.ended(data["node"], data["task"])
    for task in run["tasks"]:
        printer.ended(task["node"], task["id"])
    if not whole:
        raise Unavailable(
            "cut_short",
            f"This is not all of run {run['id']}: some of its output lies on a node that does not "
            "answer now, or the server went away. Try again later.",
        )
