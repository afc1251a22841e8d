"""`qd up`, `qd fabric`, `qd server`, `qd agent`: the long-running processes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import click
import msgspec

from quarterdeck.cli.importing import importing
from quarterdeck.errors import Invalid
from quarterdeck.settings import (
    AgentSettings,
    FabricSettings,
    Secret,
    ServerSettings,
    UpSettings,
    default_data,
    default_state,
    host_name,
    load,
    read_labels,
)
from quarterdeck.settings.environment import marked, without_mark

TOKEN_LIMIT = 1024
INGEST_HELP = "Hear senders of other tools: rtail=HOST:PORT,logio=...,logio4=...,syslog=..."
INGEST_NAMESPACE_HELP = "The namespace of their traces (default: default)."
DATABASE_HELP = "postgresql://... instead of SQLite (with a password better: QD_DATABASE)."


@click.command()
@click.option("--data", metavar="DIR", help="Where everything is kept.")
@click.option("--database", metavar="URL", help=DATABASE_HELP)
@click.option("--listen", metavar="HOST:PORT", help="Where the API listens (port 0: a free one).")
@click.option("--nodes", type=int, help="How many agents to run here (default 1).")
@click.option("--ingest", metavar="PLACES", help=INGEST_HELP)
@click.option("--ingest-namespace", metavar="NS", help=INGEST_NAMESPACE_HELP)
@click.option("--config", type=click.Path(), help="A settings file (TOML).")
def up(config: str | None, **flags: Any) -> None:
    """Start everything on this machine: fabric, server and agents, under one supervisor."""
    _shed_mark()
    settings = load(UpSettings, file=config, flags=flags)
    from quarterdeck.cli.supervisor import supervise

    sys.exit(asyncio.run(supervise(settings, settings.data or default_data())))


@click.command()
@click.option("--config", type=click.Path(), help="A settings file (TOML).")
@click.option("--data", metavar="DIR", help="Where it keeps what is on its way.")
@click.option("--keys", metavar="DIR", help="The installation's keys (default: keys in --data).")
@click.option("--listen", metavar="HOST:PORT", help="Where it listens (default 127.0.0.1:4222).")
@click.option("--websocket-listen", metavar="HOST:PORT", help="Where it takes WebSockets too.")
@click.option(
    "--leaf-of", metavar="URL", help="Be a leaf node, for a site, of that server's fabric."
)
@click.option("--token", metavar="TOKEN", help="The leaf token (needed once).")
@click.option("--server-ca", metavar="FILE", help="As of qd agent; with --leaf-of.")
def fabric(config: str | None, **flags: Any) -> None:
    """Run the fabric of several servers (with one server `qd up` does it), or of a site."""
    _shed_mark()
    settings = load(FabricSettings, file=config, flags=flags)
    if not settings.data:
        raise Invalid("settings", "A fabric needs a directory of its own: give --data DIR.")
    if settings.leaf_of:
        from quarterdeck.cli.leaf import serve as serve_leaf
        from quarterdeck.service import run

        run(serve_leaf(settings))
        return
    from quarterdeck.cli.fabric import serve

    asyncio.run(serve(settings))


@click.command()
@click.option("--config", type=click.Path(), help="A settings file (TOML).")
@click.option(
    "--data",
    metavar="DIR",
    help="This server's own directory: its key; by default also SQLite and the archive.",
)
@click.option("--database", metavar="URL", help=DATABASE_HELP)
@click.option("--listen", metavar="HOST:PORT", help="Where the API listens.")
@click.option("--ingest", metavar="PLACES", help=INGEST_HELP)
@click.option("--ingest-namespace", metavar="NS", help=INGEST_NAMESPACE_HELP)
@click.option("--parent-fd", type=int, hidden=True)
@click.option("--listen-fd", type=int, hidden=True)
def server(config: str | None, parent_fd: int | None, listen_fd: int | None, **flags: Any) -> None:
    """Run one server (what a systemd unit starts)."""
    _shed_mark()
    settings = load(ServerSettings, file=config, flags=flags)
    if not settings.data or not settings.fabric_url or not settings.keys:
        raise Invalid(
            "settings", "A server needs `data`, `fabric_url` and `keys`: give --config FILE."
        )
    with importing():
        from quarterdeck.agent.addresses import addresses
        from quarterdeck.api.serve import serve

    listener = None if listen_fd is None else socket.socket(fileno=listen_fd)
    names = (host_name(), *addresses())
    asyncio.run(serve(settings, listener=listener, parent_fd=parent_fd, names=names))


@click.command()
@click.option("--config", type=click.Path(), help="A settings file (TOML).")
@click.option(
    "--state",
    metavar="DIR",
    help="The node's own directory (default: agent/ in the default data directory).",
)
@click.option("--join", metavar="URL", help="Enrol with the server at this address.")
@click.option("--token", metavar="TOKEN", help="The join token (needed once).")
@click.option("--token-file", metavar="FILE", help="A file with the join token (- for stdin).")
@click.option("--name", help="Display name (default: the host's name).")
@click.option(
    "--fabric",
    metavar="HOW",
    help="How to reach the fabric: auto, tcp, wss, or addresses of one (a leaf node).",
)
@click.option(
    "--server-ca",
    metavar="FILE",
    help="PEM file the server's certificate is verified with (or system), instead of a pin.",
)
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of this node.")
@click.option("--parent-fd", type=int, hidden=True)
def agent(
    config: str | None,
    parent_fd: int | None,
    token_file: str | None,
    label: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run the agent of this node; with --join and --token it enrols first."""
    _shed_mark()
    if label:
        flags["labels"] = read_labels(label, "--label")
    if token_file is not None:
        flags["token"] = token_in(token_file)
    settings = load(AgentSettings, file=config, flags=flags)
    settings = msgspec.structs.replace(
        settings,
        state=settings.state or default_state(),
        name=settings.name or host_name(),
    )
    with importing():
        from quarterdeck.agent.serve import serve
        from quarterdeck.service import run

    run(serve(settings, parent_fd=parent_fd))


def token_in(path: str) -> Secret:
    """The join token in a file, which other users do not see as they would see a flag."""
    try:
        with sys.stdin if path == "-" else open(path, encoding="ascii") as file:
            text = file.read(TOKEN_LIMIT).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("token", f"The token file {path} can't be read: {error}.") from error
    if not text:
        raise Invalid("token", f"The token file {path} is empty: it has to hold a join token.")
    return Secret(text)


def _shed_mark() -> None:
    """Start over without the mark of the attempt that this was started in, if any: a process with
    the mark would be swept as a leftover of that attempt."""
    if marked() is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], without_mark())
