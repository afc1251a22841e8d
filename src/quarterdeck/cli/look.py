"""Looking at runs, and cancelling: `qd runs`, `show`, `cancel`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from quarterdeck.cli.options import signal_name, with_namespace, with_server
from quarterdeck.cli.render import ago, ending, one_line, print_json, say, size, table, took, until
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.fold import NOT_PLACED, natural
from quarterdeck.errors import Denied

STATES = ("pending", "running", "stopping", "ended")


@click.command()
@click.option("-n", "--limit", type=click.IntRange(1, 500), default=20, help="How many (20).")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@click.option(
    "--origin", metavar="ORIGIN", help="Only runs that began so: `trace` for those of tt."
)
@click.option("--label", metavar="KEY=VALUE", help="Only runs with this label.")
@click.option("--before", metavar="RUN", help="Only runs older than this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_namespace
def runs(
    server: Connection,
    limit: int,
    as_json: bool,
    **which: str | None,
) -> None:
    """List runs, newest first."""
    page = server.get("/v1/runs", limit=limit, **which)
    if as_json:
        print_json(page)
        return
    if not page["items"]:
        if any(which.values()):
            say("No run matches. `qd runs` without options lists all.")
        else:
            say("No runs yet. Start one: qd run -t all -- uptime")
        return
    rows = [
        (
            run["id"],
            run["outcome"] or run["state"],
            _counts(run["counts"]),
            ago(run["created_at"]),
            took(run["started_at"], run["ended_at"]),
            _target(run),
            run["title"][:60],
        )
        for run in page["items"]
    ]
    table(("RUN", "STATE", "TASKS", "STARTED", "TOOK", "TARGET", "WHAT"), rows)


def _target(run: dict[str, Any]) -> str:
    """Of a trace its name: whoever ran the command chose the machine."""
    name = run["labels"].get("trace", "")
    return f"trace {name}" if run["origin"] == "trace" and name else str(run["target"])


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
    nodes = _nodes(server)
    print(f"run      {one_line(run['id'])}  {run['outcome'] or run['state']}")
    print(f"what     {one_line(run['title'])}")
    print(f"target   {one_line(_target(run))}")
    if run["parent"]:
        print(f"origin   {one_line(run['origin'])} of {one_line(run['parent'])}")
    print(f"started  {run['started_at'] or '-'}  {took(run['started_at'], run['ended_at'])}")
    for name, value in _plan_rows(run):
        print(f"{name:<8} {one_line(value)}")
    print(f"tasks    {_counts(run['counts'])}\n")
    table(
        ("NODE", "STATE", "EXIT", "TOOK", "STDOUT", "STDERR", "ATTEMPT", ""),
        [
            row
            for task in sorted(run["tasks"], key=lambda task: natural(task["node"]))
            for row in (*_tries(task, nodes), _task_row(task, nodes.get(task["node_id"])))
        ],
    )
    sent = [
        (task["node"], a, one)
        for task in run["tasks"]
        for a in task["attempts"]
        for one in a["signals"]
    ]
    if sent:
        print()
        table(("NODE", "SIGNAL", "TO", "ASKED", "STATE"), [_signal_row(*row) for row in sent])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--node", metavar="NODE", help="Only the task on this node (name or id).")
@click.argument("run_id", metavar="RUN")
@with_server
def cancel(server: Connection, run_id: str, node: str | None, as_json: bool) -> None:
    """Ask RUN to stop: TERM to every process of it, KILL after its grace or when asked again."""
    run = server.post(f"/v1/runs/{quote(run_id)}/cancel", node=node)
    if as_json:
        print_json(run)
    else:
        say(_stopped(run, node))


def _nodes(server: Connection) -> dict[str, Any]:
    """The fleet by id; nothing for a token that may only watch."""
    try:
        return {node["id"]: node for node in server.get("/v1/nodes")["items"]}
    except Denied:
        return {}


def _plan_rows(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was asked of the order of the tasks, and why it ended early."""
    plan, retry = run["plan"], run["plan"]["retry"]
    if run["labels"]:
        yield "labels", " ".join(f"{k}={v}" for k, v in sorted(run["labels"].items()))
    limits = [
        f"{word} {plan[name]}"
        for name, word in (
            ("max_parallel", "at once"),
            ("max_failures", "failures"),
            ("canary", "canary"),
        )
        if plan[name]
    ]
    if limits:
        yield "limits", ", ".join(limits)
    if run["deadline_at"]:
        yield "deadline", run["deadline_at"]
    if retry["attempts"] > 1:
        yield "retry", _retry(retry)
    if run["reason"]:
        yield "why", run["reason"]


def _retry(retry: dict[str, Any]) -> str:
    """How a run that is tried again waits between its tries."""
    most, first = retry["max_delay_s"], min(retry["delay_s"], retry["max_delay_s"])
    more = retry["attempts"] - 1
    parts = [f"{more} more {'try' if more == 1 else 'tries'}", f"the first up to {first:g} s later"]
    if retry["attempts"] > 2 and first < most and retry["factor"] > 1:
        parts.append(f"each wait {retry['factor']:g} times as long, {most:g} s at most")
    return ", ".join(parts + ["elsewhere"] * retry["elsewhere"])


def _tries(task: dict[str, Any], nodes: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each try but the newest."""
    for attempt in task["attempts"][:-1]:
        node = nodes.get(attempt["node_id"])
        following = task["attempts"][attempt["number"]]
        yield (
            f"  try {attempt['number']} {node['node'] if node else attempt['node_id']}",
            attempt["outcome"] or attempt["state"],
            "" if attempt["exit_code"] is None else str(attempt["exit_code"]),
            took(attempt["started_at"], attempt["ended_at"]),
            _length(attempt, "stdout"),
            _length(attempt, "stderr"),
            attempt["id"],
            _back_off(attempt, following),
        )


def _back_off(attempt: dict[str, Any], following: dict[str, Any]) -> str:
    if not (attempt["ended_at"] and following["not_before"]):
        return attempt["error"] or ""
    return f"next {took(attempt['ended_at'], following['not_before'])} later"


def _counts(counts: dict[str, int]) -> str:
    parts = [f"{n} {name}" for name, n in counts.items() if n and name != "total"]
    return ", ".join(parts) or "none"


def _task_row(task: dict[str, Any], node: dict[str, Any] | None) -> tuple[str, ...]:
    attempt = task["attempts"][-1] if task["attempts"] else {}
    note = task["reason"] or task["error"] or ""
    if attempt.get("overdue"):
        note = f"overdue. {note}"
    if task["state"] == "retrying":
        note = f"tries again {until(attempt['not_before'])}"
    if task["state"] not in ("ended", "pending"):
        note = waits(task, node) or note
    if attempt.get("gone_at"):
        note = f"It ended after all, {ago(attempt['gone_at'])}. {note}"
    if attempt.get("survivors"):
        note = f"{attempt['survivors']} processes were left. {note}"
    return (
        task["node"] or NOT_PLACED,
        ending({**task, "exit_code": None, "signal": attempt.get("signal")})
        if task["state"] == "ended"
        else attempt.get("state", task["state"]),
        "" if task["exit_code"] is None else str(task["exit_code"]),
        took(attempt.get("started_at"), attempt.get("ended_at")),
        _length(attempt, "stdout"),
        _length(attempt, "stderr"),
        attempt.get("id", ""),
        note,
    )


def waits(task: dict[str, Any], node: dict[str, Any] | None) -> str:
    """What stands in the way of a task that is not over; empty when nothing is known to."""
    queued = task["state"] == "queued"
    if queued and not task["node_id"]:
        return "not placed: no node fits yet"
    if node is None or node["state"] != "ready":
        return f"node last seen {ago(node['last_seen'] if node else None)}"
    if not queued:
        return ""
    if node["draining"]:
        return f"waits: {node['node']} drains (`qd node undrain`)"
    if node["problem"]:
        return f"waits: {node['problem']}"
    return f"{node['node']} has not taken it yet: its slots may be in use"


def _signal_row(node: str, attempt: dict[str, Any], one: dict[str, Any]) -> tuple[str, ...]:
    """`not sent` is what the attempt's end was quicker than."""
    ended = attempt["state"] == "ended"
    state = "not sent" if ended and one["state"] != "sent" else one["state"]
    whom = "the whole tree" if one["tree"] else "the main process"
    return node, signal_name(one["signal"]), whom, ago(one["at"]), state


def _stopped(run: dict[str, Any], node: str | None) -> str:
    """What a cancel has asked for."""
    if run["state"] == "ended":
        return f"run {run['id']} is {run['outcome']}"
    if node is not None:
        return f"run {run['id']}: its task on {node} is being stopped; the others go on"
    counts = run["counts"]
    left = counts["queued"] + counts["running"] + counts["retrying"]
    what = "1 task of it is" if left == 1 else f"{left} tasks of it are"
    return f"run {run['id']}: {what} being stopped, nothing of it starts any more"


def _length(attempt: dict[str, Any], name: str) -> str:
    """How much there is of a stream; `-` while nobody knows: until the end, or of a lost one."""
    if not attempt:
        return ""
    stream = attempt[name]
    known = stream["bytes"] or stream["sha256"]
    if attempt["state"] != "ended" or (attempt["outcome"] == "lost" and not known):
        return "-"
    dropped = f" (+{size(stream['dropped'])} dropped)" if stream["dropped"] else ""
    return size(stream["bytes"]) + dropped
