"""`qd node add --ssh`: machines without an agent, reached by a node that has one."""

from __future__ import annotations

import shlex
import time
from typing import Any

import click

from quarterdeck.cli.options import with_server
from quarterdeck.cli.render import print_json, say
from quarterdeck.client.http import Connection, quote
from quarterdeck.errors import Unavailable

WAIT_S = 30.0
LOOK_S = 0.3


@click.command("add")
@click.option("--ssh", "place", metavar="USER@HOST[:PORT]", required=True, help="Where to log in.")
@click.option("--via", metavar="NODE", required=True, help="The node that reaches it.")
@click.option("--name", metavar="NAME", default="", help="Display name (default: the host).")
@click.option("--identity", metavar="PATH", default="", help="A private key, as a path on --via.")
@click.option("--host-key", metavar="KEY", default="", help="SHA256:... or the public key itself.")
@click.option("--accept-new", is_flag=True, help="Pin the first host key that is offered.")
@click.option("--jump", metavar="USER@HOST[:PORT]", default="", help="A host on the way.")
@click.option("--jump-key", metavar="KEY", default="", help="The host key of --jump.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is reached.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_server
def add(server: Connection, no_wait: bool, as_json: bool, **given: Any) -> None:
    """Add a machine without an agent; another node reaches it over SSH with its own keys.

    Adding the same machine again changes how it is reached.
    """
    added = server.post("/v1/agentless", given)
    if not no_wait:
        added = _waited(server, added)
    if as_json:
        print_json(added)
    elif added["state"] == "ready" and not added["problem"]:
        say(f"node {added['name']} ({added['node']}) is reached at {added['place']}")
    else:
        say(f"{added['place']} is added and not reached yet: see `qd nodes`")
    if not no_wait and (added["problem"] or added["state"] != "ready"):
        why = added["problem"] or "It was not reached in time."
        name = shlex.quote(added["name"])
        stays = f"It stays in the list: add it again to change how, or `qd node remove {name}`."
        raise Unavailable("agentless", f"{why} {stays}")


def _waited(server: Connection, added: dict[str, Any]) -> dict[str, Any]:
    """It, once it is ready or something keeps it from being reached, or in the end as it is."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        found: dict[str, Any] = server.get(f"/v1/agentless/{quote(added['id'])}")
        if not found["waiting"] and (found["problem"] or found["state"] == "ready"):
            return found
        time.sleep(LOOK_S)
    return found
