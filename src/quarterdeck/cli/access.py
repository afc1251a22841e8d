"""Who may come in: `qd token create|list|revoke`, `qd share`."""

from __future__ import annotations

import math
from typing import Any

import click

from quarterdeck.cli.options import Duration, with_namespace, with_server
from quarterdeck.cli.render import ago, print_json, say, table, until
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.access import EVERY, HOME, KINDS, check_namespace, split
from quarterdeck.core.install import install_line, join_line
from quarterdeck.core.trace import check_name

HEADS = ("TOKEN", "KIND", "NAMESPACE", "SCOPE", "MADE", "EXPIRES", "LAST USED", "NODES", "")


@click.group()
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    required=True,
    help="What it is for: call the API, send traces, only watch, enrol agents or leaf nodes.",
)
@click.option(
    "--namespace",
    metavar="NAME",
    help="Where it acts (default: as yours; `*`: everywhere).",
)
@click.option("--scope", metavar="GLOB", default="", help="Only traces of these names.")
@click.option(
    "--expires", type=Duration(most_s=math.inf), metavar="TIME", help="Valid that long (for ever)."
)
@click.option("--uses", type=click.IntRange(1, 1_000_000), help="How many nodes may join with it.")
@click.option(
    "--approve",
    type=click.Choice(["auto", "manual"]),
    default="auto",
    help="Nodes come in at once, or wait for `qd node approve`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_server
def create(
    server: Connection,
    kind: str,
    namespace: str | None,
    scope: str,
    expires: float | None,
    uses: int | None,
    approve: str,
    as_json: bool,
) -> None:
    """Make a token; it is shown this once."""
    if namespace is not None and namespace != EVERY:
        check_namespace(namespace)
    body = {
        "kind": kind,
        "namespace": namespace,
        "scope": scope,
        "expires_s": expires,
        "uses": uses,
        "approve": approve,
    }
    made = server.post("/v1/tokens", body)
    if as_json:
        print_json(made)
        return
    print(made["token"])
    url = made["url"] or server.url
    if kind == "join":
        say(f"join with:    {made['join'] or join_line(url, made['token'])}")
        say(f"install with: {made['install'] or install_line(url, made['token'])}")
    elif kind == "leaf":
        say(f"use with:  qd fabric --leaf-of {url} --token {made['token']} --data DIR")
    elif kind == "send":
        say(f"use with:  TT_URL={url} TT_TOKEN={made['token']} tt COMMAND")
    else:
        say(f"use with:  QD_URL={url} QD_TOKEN={made['token']}")


@token.command("list")
@click.option("--all", "minted", is_flag=True, help="Also those in the URLs that tt was told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_namespace
def list_(server: Connection, minted: bool, as_json: bool) -> None:
    """List tokens, oldest first; their texts are nowhere."""
    found = server.get("/v1/tokens", minted="true" if minted else None)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            kept["id"],
            kept["kind"],
            kept["namespace"],
            kept["scope"],
            ago(kept["created_at"]),
            until(kept["expires_at"]),
            ago(kept["last_used"]) if kept["last_used"] else "",
            _used(kept),
            f"revoked {ago(kept['revoked_at'])}" if kept["revoked_at"] else "",
        )
        for kept in found["items"]
    ]
    table(HEADS, rows)


@click.command()
@click.option("--expires", type=Duration(), default=86_400.0, help="For so long (1d).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("name")
@with_namespace
def share(server: Connection, name: str, expires: float, as_json: bool) -> None:
    """Print a link to the traces of NAME: who has it may watch them, and nothing else.

    `qd token revoke` takes it back at once.
    """
    check_name(name)
    if server.namespace is not None:
        check_namespace(server.namespace)
    body = {
        "kind": "watch",
        "namespace": server.namespace,
        "scope": name,
        "expires_s": expires,
    }
    made = server.post("/v1/tokens", body)
    where = made["namespace"]
    query = "" if where == HOME else f"?namespace={where}"
    bare, _ = split(made["token"])
    url = f"{made['url'] or server.url}/trace/{name}{query}#access_token={bare}"
    if as_json:
        print_json({**made, "url": url})
        return
    print(url)
    say(f"it ends {until(made['expires_at'])}, or with: qd token revoke {made['id']}")


@token.command("revoke")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("token_id", metavar="ID")
@with_server
def revoke(server: Connection, token_id: str, as_json: bool) -> None:
    """Void a token for ever. Nodes that joined with it stay: see `qd node remove`."""
    kept = server.delete(f"/v1/tokens/{quote(token_id)}")
    if as_json:
        print_json(kept)
    else:
        say(f"token {kept['id']} is revoked")


def _used(kept: dict[str, Any]) -> str:
    if kept["kind"] != "join":
        return ""
    limit = "" if kept["uses"] is None else f" of {kept['uses']}"
    manual = ", by approval" if kept["approve"] == "manual" else ""
    return f"{kept['used']}{limit}{manual}"
