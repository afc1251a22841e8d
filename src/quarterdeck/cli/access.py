"""Who may come in: `qd token create|list|revoke`, `qd node remove`."""

from __future__ import annotations

import click

from quarterdeck.cli.options import Duration, with_server
from quarterdeck.cli.render import ago, print_json, say, table, until
from quarterdeck.client.http import Connection, quote


@click.group()
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@click.option(
    "--kind", type=click.Choice(["join", "api", "leaf"]), required=True, help="What it is for."
)
@click.option("--expires", type=Duration(), metavar="TIME", help="Valid that long (30d); or ever.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_server
def create(server: Connection, kind: str, expires: float | None, as_json: bool) -> None:
    """Make a token; it is shown this once."""
    made = server.post("/v1/tokens", {"kind": kind, "expires_s": expires})
    if as_json:
        print_json(made)
        return
    print(made["token"])
    url = made["url"] or server.url
    if kind == "join":
        say(f"join with: qd agent --join {url} --token {made['token']}")
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
            f"revoked {ago(kept['revoked_at'])}" if kept["revoked_at"] else "",
        )
        for kept in found["items"]
    ]
    table(("TOKEN", "KIND", "NAMESPACE", "MADE", "EXPIRES", ""), rows)


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


@click.group()
def node() -> None:
    """Change the nodes of the fleet."""


@node.command("remove")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("node_word", metavar="NODE")
@with_server
def remove(server: Connection, node_word: str, as_json: bool) -> None:
    """Remove NODE (a name or an id) for ever: its link is cut, what may run there is lost."""
    removed = server.delete(f"/v1/nodes/{quote(node_word)}")
    if as_json:
        print_json(removed)
        return
    say(f"node {removed['node']} ({removed['id']}) is removed")
    say("a join token that it still has would admit it again as a new node: qd token list")
