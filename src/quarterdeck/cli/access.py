"""Who may come in: `qd token create|list|revoke`."""

from __future__ import annotations

import math
from typing import Any

import click

from quarterdeck.cli.options import Duration, with_server
from quarterdeck.cli.render import ago, print_json, say, table, until
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.install import install_line, join_line


@click.group()
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@click.option(
    "--kind", type=click.Choice(["join", "api", "leaf"]), required=True, help="What it is for."
)
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
    expires: float | None,
    uses: int | None,
    approve: str,
    as_json: bool,
) -> None:
    """Make a token; it is shown this once."""
    body = {"kind": kind, "expires_s": expires, "uses": uses, "approve": approve}
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
    else:
        say(f"use with:  QD_URL={url} QD_TOKEN={made['token']}")


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_server
def list_(server: Connection, as_json: bool) -> None:
    """List tokens, oldest first; their texts are nowhere."""
    found = server.get("/v1/tokens")
    if as_json:
        print_json(found)
        return
    rows = [
        (
            kept["id"],
            kept["kind"],
            kept["namespace"],
            ago(kept["created_at"]),
            until(kept["expires_at"]),
            _used(kept),
            f"revoked {ago(kept['revoked_at'])}" if kept["revoked_at"] else "",
        )
        for kept in found["items"]
    ]
    table(("TOKEN", "KIND", "NAMESPACE", "MADE", "EXPIRES", "USED", ""), rows)


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
