"""Acting on a run that is there: `qd signal`, and new runs from it: `qd retry`, `qd clone`."""

from __future__ import annotations

import copy
import sys
from typing import Any

import click
from click.core import ParameterSource

from quarterdeck.cli.options import SignalName, aiming, fold_by, signal_name, with_server
from quarterdeck.cli.order import order_body
from quarterdeck.cli.plan import RETRY_OPTIONS, plan_body
from quarterdeck.cli.render import print_json, say
from quarterdeck.cli.run import follow, post_once
from quarterdeck.cli.run import run as run_command
from quarterdeck.client.http import Connection, quote

# options of `qd run` that are no part of the order
OF_THE_SCREEN = {"url", "token", "data", "detach", "as_json", "fold", "fold_by"}
FIELDS = {
    "timeout": ("timeout_s",),
    "grace": ("grace_s",),
    "lost_after": ("lost_after_s",),
    "offline": ("offline_ttl_s",),
    "start_timeout": ("start_timeout_s",),
    "stdin_file": ("stdin_b64",),
    "deadline": ("deadline_s",),
    "label": ("labels",),
    "idempotent": ("retry",),
    **dict.fromkeys(RETRY_OPTIONS, ("retry",)),
    **dict.fromkeys(("by", "max_cpu", "max_memory"), ("pick",)),
    "script": ("script_b64", "args", "title"),
    "command": ("argv", "args"),
}
OF_PARTS = {"retry", "idempotent", *RETRY_OPTIONS, "pick", "by", "max_cpu", "max_memory"} | {
    "on_limit",
    "on_timeout",
}
# a new value of these stands for itself, whatever the run had
FIELD_OPTION = {"timeout_s": "timeout", "canary": "canary", "max_failures": "max_failures"}
NOTHING = "true"


@click.command()
@click.option("--node", metavar="NODE", help="Only the task on this node (name or id).")
@click.option("-t", "--target", metavar="EXPR", help="Only tasks on nodes that this hits now.")
@click.option("--tree", is_flag=True, help="To every process, not the main one alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("run_id", metavar="RUN")
@click.argument("number", metavar="SIGNAL", type=SignalName())
@with_server
def signal(
    server: Connection,
    run_id: str,
    number: int,
    node: str | None,
    target: str | None,
    tree: bool,
    as_json: bool,
) -> None:
    """Send SIGNAL (HUP, USR1, 10) once to what RUN runs; `qd show` says when it was sent."""
    body = {"signal": number, "tree": tree, "node": node, "target": target}
    with aiming(target):
        answer = post_once(server, f"/v1/runs/{quote(run_id)}/signal", body)
    if as_json:
        print_json(answer)
        return
    nodes = answer["nodes"]
    where = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes"
    say(f"{signal_name(number)} goes to run {answer['id']} on {where}")


@click.command()
@click.option("--failed", is_flag=True, help="Only where it did not succeed (the default).")
@click.option("--all", "everything", is_flag=True, help="Also where it succeeded.")
@click.option("--detach", is_flag=True, help="Print the run and return at once.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.argument("run_id", metavar="RUN")
@with_server
def retry(
    server: Connection, run_id: str, failed: bool, everything: bool, detach: bool, as_json: bool
) -> None:
    """Run the order of RUN again, on the nodes where it did not succeed."""
    if failed and everything:
        raise click.UsageError("--failed and --all exclude each other.")
    started = post_once(server, f"/v1/runs/{quote(run_id)}/retry", {"all": everything})
    if started["left_out"]:
        say(f"qd: left out, since removed: {', '.join(started['left_out'])}")
    _go_on(server, started, detach=detach, as_json=as_json)


@with_server
def _clone(server: Connection, run_id: str, preview: bool, **given: Any) -> None:
    """Run the order of RUN once more, changed by any option of `qd run`, or by another COMMAND."""
    fold = fold_by({**given, "preview": preview})
    path = f"/v1/runs/{quote(run_id)}/clone"
    named = _named(click.get_current_context(), given)
    before: dict[str, Any] = {}
    with aiming(given["target"]):
        if named & OF_PARTS:  # a part of what the run had is replaced, the rest of it stays
            aim = {"target": given["target"]} if given["target"] else {}
            before = server.post(f"{path}/preview", aim)["request"]
        changes = _changes(named, given, before)
        if preview:
            print_json(server.post(f"{path}/preview", changes))
            return
        started = post_once(server, path, changes)
    if given["detach"]:
        _go_on(server, started, detach=True, as_json=given["as_json"])
        return
    sys.exit(follow(server, started["id"], as_json=given["as_json"], may_cancel=True, fold=fold))


def _options_of_clone() -> list[click.Parameter]:
    """Those of `qd run`, none of them required, and its own."""
    options: list[click.Parameter] = []
    for option in run_command.params:
        if option.name not in ("url", "token", "data", "preview"):
            other = copy.copy(option)
            other.required = False
            options.append(other)
    own = click.Option(
        ["--preview"], is_flag=True, help="Print what it would be and whom it would hit, as JSON."
    )
    return [own, click.Argument(["run_id"], metavar="RUN"), *options]


clone = click.command("clone")(_clone)
clone.params = [*_options_of_clone(), *clone.params]


def _named(ctx: click.Context, given: dict[str, Any]) -> set[str]:
    """The options that the command line names, `command` when there is one."""
    return {
        name
        for name in given
        if name not in OF_THE_SCREEN
        and (
            ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
            if name != "command"
            else given[name]
        )
    }


def _changes(named: set[str], given: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that the words of the command line name. `before` is the request of
    the run that is cloned, when more than the words is needed."""
    fill = {} if named & {"command", "script"} else {"command": (NOTHING, "")}
    kept = {name: value for name, value in before.items() if FIELD_OPTION.get(name) not in named}
    target = given["target"] if "target" in named else "all"  # none is sent then
    body = order_body({**given, "target": target, **fill})
    body |= plan_body(given, kept)
    wanted = {field for name in named for field in FIELDS.get(name, (name,))}
    return {field: value for field, value in body.items() if field in wanted}


def _go_on(server: Connection, started: dict[str, Any], *, detach: bool, as_json: bool) -> None:
    if not detach:
        sys.exit(follow(server, started["id"], as_json=as_json, may_cancel=True))
    if as_json:
        print_json({"type": "run", "id": started["id"], "state": started["state"]})
    else:
        print(started["id"])
