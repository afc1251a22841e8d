"""The fleet: `qd nodes`, and `qd node` with what is decided about one of them."""

from __future__ import annotations

import re
from typing import Any

import click

from quarterdeck.cli.agentless import add
from quarterdeck.cli.options import aiming, check_target, with_server
from quarterdeck.cli.render import (
    ago,
    figure,
    narrow,
    one_line,
    pointed,
    print_json,
    say,
    size,
    table,
)
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.fold import natural
from quarterdeck.errors import Invalid

OFFSET_SHOWN_S = 0.5
PAGE = 1000
FIGURES = ("CPU", "LOAD", "MEMORY", "DISK FREE", "ATTEMPTS")
HEADERS = ("NODE", "STATE", "SEEN", *FIGURES, "LABELS", "VERSION", "CLOCK", "")
SHORT = ("NODE", "STATE", "SEEN", "CPU", "MEM", "TASKS", "LABELS", "")


@click.command()
@click.option("-t", "--target", help="Only the nodes that this expression hits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_server
def nodes(server: Connection, target: str | None, as_json: bool) -> None:
    """List the nodes of the fleet with their states, figures and labels."""
    check_target(target)
    with aiming(target):
        found = all_nodes(server, target)
    if as_json:
        print_json(found)
        return
    say_notes(found["notes"], target)
    if not found["items"]:
        if target is None:
            say("No nodes yet. Start an agent: qd agent --join URL --token TOKEN")
        else:
            say("The target hits no node.")
        return
    items = sorted(found["items"], key=lambda node: (natural(node["node"]), node["id"]))
    table(*(_short(items) if narrow() else _with_proxies(items, HEADERS)))


def all_nodes(server: Connection, target: str | None) -> dict[str, Any]:
    """The answer of all pages: a large fleet comes a page at a time, so that nobody waits for the
    server meanwhile."""
    page = found = server.get("/v1/nodes", target=target, limit=PAGE)
    while page.get("next"):
        page = server.get("/v1/nodes", target=target, limit=PAGE, after=page["next"])
        found["items"] += page["items"]
    return {**found, "next": None}


def say_notes(notes: list[dict[str, Any]], target: str | None) -> None:
    """What in a target hits nobody, with the place."""
    for note in notes:
        say(f"qd: {note['text']}")
        if target is not None:
            say(pointed(target, note["position"]))


def quoted(word: str) -> str:
    """A word as a target takes it for nothing but itself."""
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def labels_text(labels: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def state_text(node: dict[str, Any]) -> str:
    return f"{node['state']}, draining" if node["draining"] else str(node["state"])


@click.group()
def node() -> None:
    """Look at one node, and change what the fleet knows of it."""


node.add_command(add)


@node.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("name", metavar="NODE")
@with_server
def show(server: Connection, name: str, as_json: bool) -> None:
    """Show NODE (a name, an id, or the beginning of an id)."""
    found = server.get(f"/v1/nodes/{quote(name)}")
    if as_json:
        print_json(found)
        return
    print("\n".join(described(found)))


@node.command("label")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("word", metavar="NODE")
@click.argument("changes", metavar="CHANGE...", nargs=-1, required=True)
@with_server
def label(server: Connection, word: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Change labels of NODE: KEY=VALUE sets one, KEY- takes it away; group+=NAME and group-=NAME
    join and leave a group. Labels in the settings of its agent stay."""
    found = server.post(f"/v1/nodes/{quote(word)}/labels", label_body(changes))
    _done(found, as_json, f"has labels {labels_text(found['labels']) or 'none'}")


@node.command("rename")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--own", is_flag=True, help="Give the node the name back that its agent says.")
@click.argument("word", metavar="NODE")
@click.argument("name", required=False)
@with_server
def rename(server: Connection, word: str, name: str | None, own: bool, as_json: bool) -> None:
    """Show NODE as NAME from now on."""
    if own == bool(name):
        raise Invalid("node_name", "Give the new NAME, or --own for the name its agent says.")
    found = server.post(f"/v1/nodes/{quote(word)}/rename", {"name": name or ""})
    _done(found, as_json, f"({found['id']}) was {word}")
    same = server.get("/v1/nodes", target=f"name:{quoted(found['node'])}")["items"]
    if len(same) > 1:
        ids = ", ".join(node["id"] for node in same)
        say(f"qd: {len(same)} nodes are named {found['node']} now: use their ids ({ids}).")


@node.command("drain")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("word", metavar="NODE")
@with_server
def drain(server: Connection, word: str, as_json: bool) -> None:
    """Keep new work off NODE; what runs there runs on."""
    found = server.post(f"/v1/nodes/{quote(word)}/drain")
    _done(found, as_json, f"is draining; {found['attempts']} attempts are there now")


@node.command("undrain")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("word", metavar="NODE")
@with_server
def undrain(server: Connection, word: str, as_json: bool) -> None:
    """Give NODE new work again."""
    _done(server.post(f"/v1/nodes/{quote(word)}/undrain"), as_json, "takes work again")


@node.command("approve")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("word", metavar="NODE")
@with_server
def approve(server: Connection, word: str, as_json: bool) -> None:
    """Let NODE in, which joined with a token of `--approve manual`; it starts by itself."""
    _done(server.post(f"/v1/nodes/{quote(word)}/approve"), as_json, "is approved")


@node.command("remove")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("word", metavar="NODE")
@with_server
def remove(server: Connection, word: str, as_json: bool) -> None:
    """Remove NODE for ever: its link is cut, what may run there is lost."""
    removed = server.delete(f"/v1/nodes/{quote(word)}")
    _done(removed, as_json, f"({removed['id']}) is removed")
    if not as_json:
        say("a join token that it still has would admit it again as a new node: qd token list")


def described(found: dict[str, Any]) -> list[str]:
    """The lines of `qd node show`: what its agent says of itself steers no terminal."""
    own = "" if found["own_name"] == found["node"] else f"  (calls itself {found['own_name']})"
    rows: list[tuple[str, object]] = [
        ("node", f"{found['node']}{own}"),
        ("id", found["id"]),
        ("state", f"{state_text(found)}, seen {ago(found['last_seen'])}"),
        ("enrolled", found["enrolled_at"]),
        ("labels", labels_text(found["labels"])),
        ("  its own", labels_text(found["own_labels"])),
        ("  given here", labels_text(found["server_labels"])),
        ("agent", f"{found['version']}, clock {figure(found['clock_offset_s'], '+.3f')} s"),
        ("machine", f"{found['os']} {found['kernel']} {found['arch']}, {found['cpus']} cpus"),
        ("addresses", " ".join(found["addresses"])),
        ("attempts", found["attempts"]),
    ]
    if problem := _problem(found):
        rows.append(("problem", problem))
    return [f"{head:<{12 if head[0] == ' ' else 9}} {one_line(value)}" for head, value in rows]


def label_body(changes: tuple[str, ...]) -> dict[str, Any]:
    """The words of `qd node label` as the API takes them. Raises Invalid."""
    body: dict[str, Any] = {"put": {}, "drop": [], "join": [], "leave": []}
    for word in changes:
        key, equals, value = word.partition("=")
        if equals and key in ("group+", "group-"):
            body["join" if key == "group+" else "leave"].append(value)
        elif equals and key:
            body["put"][key] = value
        elif word.endswith("-") and len(word) > 1 and not equals:
            body["drop"].append(word[:-1])
        else:
            raise Invalid("labels", f"{word!r}: write KEY=VALUE, KEY-, group+=NAME or group-=NAME.")
    return body


def _done(found: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        print_json(found)
    else:
        say(f"node {found['node']} {what}")


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    away = node["last_seen"] is None
    return (
        node["node"],
        state_text(node),
        ago(node["last_seen"]),
        "" if away else f"{figure(node['cpu_percent'], '.0f')} %",
        "" if away else figure(node["load1"], ".2f"),
        "" if away else f"{size(node['memory_used'])} / {size(node['memory_total'])}",
        "" if away else size(node["disk_free"]),
        str(node["attempts"]),
        labels_text(node["labels"]),
        node["version"],
        "" if away else _clock(node["clock_offset_s"]),
        _problem(node),
    )


def _short(items: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table for a narrow terminal; a clock that is wrong is named with the problems."""
    rows: list[tuple[str, ...]] = []
    for node in items:
        name, state, seen, cpu, *_, attempts, labels, _version, clock, problem = _row(node)
        wrong = f"clock {clock}" if clock not in ("", "ok", "?") else ""
        total = node["memory_total"]
        used = f"{100 * node['memory_used'] // total} %" if cpu and total else ""
        told = "; ".join(filter(None, (wrong, problem)))
        rows.append((name, state, seen.removesuffix(" ago"), cpu, used, attempts, labels, told))
    return SHORT, rows


def _with_proxies(
    items: list[dict[str, Any]], headers: tuple[str, ...]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table, with a column for who reaches a node where one has no agent of its own."""
    rows = [_row(node) for node in items]
    if not any(node["via"] for node in items):
        return headers, rows
    names = {node["id"]: node["node"] for node in items}
    vias = [names.get(node["via"], node["via"]) for node in items]
    return (
        (*headers[:-1], "VIA", headers[-1]),
        [(*row[:-1], via, row[-1]) for row, via in zip(rows, vias, strict=True)],
    )


def _clock(offset_s: float | None) -> str:
    if offset_s is None:
        return "?"
    return f"{offset_s:+.1f} s" if abs(offset_s) >= OFFSET_SHOWN_S else "ok"


def _problem(node: dict[str, Any]) -> str:
    if not node["approved"]:
        return f"waits for approval: qd node approve {node['id']}"
    if node["problem"]:
        return str(node["problem"])
    if node["unknown_attempts"]:
        return f"{len(node['unknown_attempts'])} attempts nobody ordered"
    return ""
