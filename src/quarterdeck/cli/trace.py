"""`qd trace`: the other face of `tt`; quarterdeck.tt reads the words itself."""

from __future__ import annotations

import os

import click

from quarterdeck.tt.main import run


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def trace(words: tuple[str, ...]) -> None:
    """Run a command here and show its output live to everybody who may watch.

    The same as `tt`; `qd trace --help` lists the options.
    """
    os._exit(run(list(words), "qd trace"))
