"""Looking at runs, and cancelling: `qd runs`, `show`, `cancel`."""

from __future__ import annotations

from typing import Any

import click

from quarterdeck.cli.options import with_server
from quarterdeck.cli.render import ago, ending, print_json, say, size, table, took
from quarterdeck.client.http import Connection, quote

STATES = ("pending", "running", "stopping", "ended")


@click.command()
@click.option("-n", "--limit", type=click.IntRange(1, 500), default=20, help="How many (20).")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@click.option("--before", metavar="RUN", help="Only runs older than this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_server
def runs(
    server: Connection, limit: int, state: str | None, before: str | None, as_json: bool
) -> None:
    """List runs, newest first."""
    page = server.get("/v1/runs", limit=limit, state=state, before=before)
    if as_json:
        print_json(page)
        return
    if not page["items"]:
        say("No runs yet. Start one: qd run -t all -- uptime")
        return
    rows = [
        (
            run["id"],
            run["outcome"] or run["state"],
            _counts(run["counts"]),
            ago(run["created_at"]),
            took(run["started_at"], run["ended_at"]),
            run["target"],
            run["title"][:60],
        )
        for run in page["items"]
    ]
    table(("RUN", "STATE", "TASKS", "STARTED", "TOOK", "TARGET", "WHAT"), rows)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("run_id", metavar="RUN")
@with_server
def show(server: Connection, run_id: str, as_json: bool) -> None:
    """Show RUN (an id, the beginning of one, or `last`) with its tasks and attempts."""
    run = server.get(f"/v1/runs/{quote(run_id)}")
    if as_json:
        print_json(run)
        return
    nodes = {node["id"]: node for node in server.get("/v1/nodes")["items"]}
    print(f"run      {run['id']}  {run['outcome'] or run['state']}")
    print(f"what     {run['title']}")
    print(f"target   {run['target']}")
    print(f"started  {run['started_at'] or '-'}  {took(run['started_at'], run['ended_at'])}")
    print(f"tasks    {_counts(run['counts'])}\n")
    table(
        ("NODE", "STATE", "EXIT", "TOOK", "STDOUT", "STDERR", "ATTEMPT", ""),
        [_task_row(task, nodes.get(task["node_id"])) for task in run["tasks"]],
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("run_id", metavar="RUN")
@with_server
def cancel(server: Connection, run_id: str, as_json: bool) -> None:
    """Ask RUN to stop: TERM to every process of it, KILL after its grace or when asked again."""
    run = server.post(f"/v1/runs/{quote(run_id)}/cancel")
    if as_json:
        print_json(run)
    else:
        say(f"run {run['id']} is {run['outcome'] or run['state']}")


def _counts(counts: dict[str, int]) -> str:
    parts = [f"{n} {name}" for name, n in counts.items() if n and name != "total"]
    return ", ".join(parts) or "none"


def _task_row(task: dict[str, Any], node: dict[str, Any] | None) -> tuple[str, ...]:
    attempt = task["attempts"][-1] if task["attempts"] else {}
    note = task["error"] or ""
    if task["state"] != "ended" and (node is None or node["state"] != "ready"):
        note = f"node last seen {ago(node['last_seen'] if node else None)}"
    if attempt.get("survivors"):
        note = f"{attempt['survivors']} processes were left. {note}"
    return (
        task["node"],
        ending({**task, "exit_code": None, "signal": attempt.get("signal")})
        if task["state"] == "ended"
        else attempt.get("state", task["state"]),
        "" if task["exit_code"] is None else str(task["exit_code"]),
        took(attempt.get("started_at"), attempt.get("ended_at")),
        _length(attempt.get("stdout")),
        _length(attempt.get("stderr")),
        attempt.get("id", ""),
        note,
    )


def _length(stream: dict[str, Any] | None) -> str:
    if not stream:
        return ""
    dropped = f" (+{size(stream['dropped'])} dropped)" if stream["dropped"] else ""
    return size(stream["bytes"]) + dropped
