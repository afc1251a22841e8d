"""Commands that sentences of the code advise can be typed: they and their options exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from quarterdeck.cli.main import cli

SOURCE = Path(__file__).parents[2] / "src" / "quarterdeck"
# in backticks, or at the end of "...: qd VERB", as one would type it
ADVICE = re.compile(r"`qd ([^`]+)`|: qd ([a-z][^`.]*)")


def advised(source: str) -> Iterator[str]:
    """What follows `qd` in the texts of a module; a value put in becomes X."""
    for node in ast.walk(ast.parse(source)):
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )
        for found in ADVICE.finditer(text):
            yield " ".join((found[1] or found[2]).split())


def wrong_in(words: list[str]) -> str:
    """Why these words after `qd` can't be typed; empty when they can."""
    command: click.Command = cli
    for word in words:
        if word == "--":
            return ""
        context = click.Context(command)
        if word.startswith("-"):
            known = {option for parameter in command.params for option in parameter.opts}
            known.add("--help")
            if word not in known:
                return f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            below = [command.get_command(context, name) for name in word.split("|")]
            if None in below or not below:
                return f"{command.name} has no command {word}"
            command = below[0] or command
    return ""


@pytest.mark.parametrize("words", ["run web -- uptime", "agent --join URL", "token create|list"])
def test_words_that_can_be_typed_are_told(words: str) -> None:
    assert not wrong_in(words.split())


@pytest.mark.parametrize("words", ["node rm", "nodse", "agent --jion URL", "token create|lits"])
def test_words_that_can_not_be_typed_are_told(words: str) -> None:
    assert wrong_in(words.split())


def test_every_advised_command_can_be_typed() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), words)
        for path in SOURCE.rglob("*.py")
        for words in advised(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 20
    wrong = [
        f"{path}: qd {words}: {why}" for path, words in found if (why := wrong_in(words.split()))
    ]
    assert not wrong
