"""`qd doctor`: settings, machine, server, fabric, database, nodes: how they are and what to do."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import Any

import click

from quarterdeck.cli import checks
from quarterdeck.cli.checks import Finding
from quarterdeck.cli.render import coloured, print_json, safe_text
from quarterdeck.client.find import connect, directory_of, nearest
from quarterdeck.client.http import Connection
from quarterdeck.errors import Denied, QuarterdeckError
from quarterdeck.service import SystemClock

LIMITED = ("wrong_token", "wrong_namespace", "out_of_scope")  # a good token, but not for all of it
COLOURS = {"ok": 32, "warn": 33, "fail": 31}


@click.command()
@click.option("--url", metavar="URL", help="Address of a server.")
@click.option("--token", metavar="TOKEN", help="API token (better: QD_TOKEN).")
@click.option("--data", metavar="DIR", help="Data directory of a `qd up` on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(url: str | None, token: str | None, data: str | None, as_json: bool) -> None:
    """Check everything and say what to do; leaves with 1 when something fails.

    Works without a server too: then it looks at what lies in the data directory.
    """
    found = list(_all(url, token, data))
    failed = any(finding.level == "fail" for finding in found)
    if as_json:
        print_json({"ok": not failed, "findings": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            level = coloured(f"{finding.level:<4}", COLOURS[finding.level], on=sys.stdout.isatty())
            print(f"{level}  {finding.what:<8}  {safe_text(finding.text)}")
    sys.exit(1 if failed else 0)


def _all(url: str | None, token: str | None, data: str | None) -> Iterator[Finding]:
    try:
        found = nearest(url=url, token=token, data=data)
    except QuarterdeckError as error:
        yield Finding("fail", "settings", error.message)
        return
    home = directory_of(found)
    local = not found.url
    yield from checks.settings(home)
    if local:
        yield from checks.directory(home, checks.limit_mib(home))
    try:
        server = connect(url=url, token=token, data=data, patience_s=0.0)
        up = yield from _server(server)
    except QuarterdeckError as error:
        up = False
        yield Finding("fail", "server", error.message)
    if local:
        if not up:
            yield from checks.database_file(home)
        yield from checks.crashes(home)
        yield from checks.logs(home, SystemClock().now())


def _server(server: Connection) -> Generator[Finding, None, bool]:
    """Whether it answered; what the token may not see is left out, and said."""
    clock = SystemClock()
    status: dict[str, Any] | None = None
    found: list[Finding] = []
    try:
        try:
            status = server.get("/debug/status")
            found += checks.server(status, clock.now())
        except Denied as error:
            if error.code not in LIMITED:
                raise
            found += checks.readiness(server.get("/readyz"))
            found += checks.refusal(error, "Clock, fabric, database and backlog")
        try:
            found += checks.nodes(server.get("/v1/nodes")["items"], status)
        except Denied as error:
            found += checks.refusal(error, "Nodes")
    except QuarterdeckError as error:
        found.append(Finding("fail", "server", error.message))
        yield from found
        return False
    except (KeyError, TypeError, ValueError) as error:
        text = f"{server.url} answers as another version does ({error!r}): upgrade this `qd`."
        found.append(Finding("fail", "server", text))
    yield from found
    return True
