"""`qd`: the group of all commands, each loaded only when it is used."""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

from quarterdeck.cli.importing import importing
from quarterdeck.errors import Broken, QuarterdeckError

COMMANDS = {
    "up": ("quarterdeck.cli.admin", "up", "Start everything on this machine."),
    "fabric": ("quarterdeck.cli.admin", "fabric", "Run the fabric of several servers."),
    "server": ("quarterdeck.cli.admin", "server", "Run one server."),
    "agent": ("quarterdeck.cli.admin", "agent", "Run the agent of this node."),
    "service": ("quarterdeck.cli.service", "service", "The agent as a service of systemd."),
    "run": ("quarterdeck.cli.run", "run", "Run a command or script on nodes, live."),
    "watch": ("quarterdeck.cli.watch", "watch", "Follow what is traced under a name, or a run."),
    "trace": ("quarterdeck.cli.trace", "trace", "Run a command here, shown live to others."),
    "logs": ("quarterdeck.cli.logs", "logs", "Print the output of a run."),
    "runs": ("quarterdeck.cli.look", "runs", "List runs, newest first."),
    "show": ("quarterdeck.cli.look", "show", "Show one run with its tasks and attempts."),
    "cancel": ("quarterdeck.cli.look", "cancel", "Stop a run; twice means at once."),
    "lock": ("quarterdeck.cli.lock", "lock", "Run a command while it holds a slot of a lock."),
    "locks": ("quarterdeck.cli.lock", "locks", "List locks, who holds them, who waits."),
    "unlock": ("quarterdeck.cli.lock", "unlock", "Take a lock away from a holder."),
    "signal": ("quarterdeck.cli.again", "signal", "Send a signal to what a run runs."),
    "retry": ("quarterdeck.cli.again", "retry", "Run again where a run did not succeed."),
    "clone": ("quarterdeck.cli.again", "clone", "Run again with changes."),
    "nodes": ("quarterdeck.cli.node", "nodes", "List the nodes of the fleet."),
    "doctor": ("quarterdeck.cli.doctor", "doctor", "Check everything and say what to do."),
    "node": ("quarterdeck.cli.node", "node", "Add, show, label, rename, drain, approve, remove."),
    "share": ("quarterdeck.cli.access", "share", "Print a link that shows the traces of a name."),
    "token": ("quarterdeck.cli.access", "token", "Make, list and revoke tokens."),
}


class LazyGroup(click.Group):
    """Imports the module of a command when it is called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        with importing():
            command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            known = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{known}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quarterdeck", prog_name="qd", message="%(prog)s %(version)s")
def cli() -> None:
    """Run commands on a fleet of machines and watch them, live."""


def main() -> None:
    """The entry point: every error of ours is one sentence and an exit code."""
    _open_standard_streams()
    try:
        sys.exit(_call())
    except QuarterdeckError as error:
        from quarterdeck.cli.render import say

        say(f"qd: {error.message}")
        _point(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        sys.exit(_part_missing(error))
    except OSError as error:
        sys.exit(_output_gone(error))


def _call() -> int:
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


def _point(error: QuarterdeckError) -> None:
    """Show the target with a mark under the place that the error is about."""
    position, target = error.detail.get("position"), error.detail.get("target")
    if isinstance(position, int) and isinstance(target, str):
        from quarterdeck.cli.render import pointed

        print(pointed(target, position), file=sys.stderr)


def _output_gone(error: OSError) -> int:
    """Nobody reads any more (head, less): that is no error. A full disk behind stdout is one."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - keeps Python from complaining at exit
    if error.errno == errno.EPIPE:
        return 0
    print(f"qd: output could not be written: {error.strerror or error}.", file=sys.stderr)
    return 1


def _part_missing(error: ModuleNotFoundError) -> int:
    """The agent for nodes without Python has all but what only a server needs."""
    print(
        f"qd: this installation has no {error.name}, which this command needs: it was made without "
        "the server, or is damaged. Use a qd of `pip install quarterdeck`.",
        file=sys.stderr,
    )
    return Broken.exit_code


def _open_standard_streams() -> None:
    """Started without one of its streams, it must not write into whatever is opened first."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - for the life of the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":
    main()
