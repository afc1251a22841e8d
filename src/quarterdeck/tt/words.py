"""The words of a command line of tt, read without the help of any import."""

from __future__ import annotations

import os
import time

USAGE = """\
usage: {prog} [OPTIONS] [--] COMMAND [ARG...]
       {prog} [OPTIONS] 'TEXT FOR BASH'
       COMMAND | {prog} [OPTIONS] -

Run COMMAND here and show its output live to everybody who may watch. One word is text for
`bash -c`, several are a program and its arguments; `-` copies standard input to standard output.

  -n, --name NAME      name of the trace (default: $TASK_TRACER_NAME, else the time)
      --id ID          who sends (default: the name of this host)
  -k, --keep           record it like a run; without this it is kept in memory for a while
      --title TEXT     what is shown instead of the command
  -q, --quiet          print nothing of our own
      --bare-url       print the URL without a token to watch
      --pty, --no-pty  give the command a terminal, or none (default: when on a terminal)
      --die-with       when tt is killed (-9), kill the command as well
      --url URL, --token TOKEN, --token-file FILE, --namespace NS, --data DIR
                       the server; else TT_URL, TT_TOKEN (or QD_URL, QD_TOKEN, QD_DATA),
                       ~/.tt.conf, /etc/tt.conf (keys id, token, url), or that of `qd`
  -h, --help           show this

The exit code is that of COMMAND, 128+N when signal N ended it. A server that is away does not keep
COMMAND from running: its output is delivered later.
"""

_VALUES = {
    "-n": "name",
    "--name": "name",
    "--id": "id",
    "--title": "title",
    "--url": "url",
    "--token": "token",
    "--token-file": "token_file",
    "--namespace": "namespace",
    "--data": "data",
}
_FLAGS = {
    "-k": ("keep", True),
    "--keep": ("keep", True),
    "-q": ("quiet", True),
    "--quiet": ("quiet", True),
    "--bare-url": ("bare_url", True),
    "--die-with": ("die_with", True),
    "--pty": ("pty", True),
    "--no-pty": ("pty", False),
    "-h": ("help", True),
    "--help": ("help", True),
}
_FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ALLOWED = set(_FIRST + "._-")
MOST_ID = 255


class Usage(Exception):
    """The words can't be used; the text says why and what to write."""


class Wanted:
    """What the words ask for; empty where they say nothing. `pty` None: as it fits."""

    def __init__(self) -> None:
        self.name = ""
        self.id = ""
        self.title = ""
        self.url = ""
        self.token = ""
        self.token_file = ""
        self.namespace = ""
        self.data = ""
        self.keep = False
        self.quiet = False
        self.bare_url = False
        self.die_with = False
        self.help = False
        self.pty: bool | None = None
        self.copy = False
        self.command: list[str] = []
        self.warning = ""


def parse(argv: list[str], prog: str) -> Wanted:
    """Take the words apart. Raises Usage."""
    wanted = Wanted()
    rest = list(argv)
    closed = False
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            closed = True
            break
        _option(wanted, word, rest, prog)
    wanted.command = rest
    wanted.copy = rest == ["-"] and not closed
    if wanted.help:
        return wanted
    if not rest:
        raise Usage(
            f"{prog}: no command was given: write {prog} -n NAME COMMAND, or {prog} --help."
        )
    _name(wanted, prog)
    if wanted.id and not is_id(wanted.id):
        raise Usage(f"{prog}: an id has 1 to {MOST_ID} characters and no control characters.")
    return wanted


def _option(wanted: Wanted, word: str, rest: list[str], prog: str) -> None:
    key, equals, value = word.partition("=")
    if not word.startswith("--") and len(word) > 2 and word[:2] in (*_VALUES, *_FLAGS):
        key, equals, value = word[:2], "", word[2:]
        if key in _FLAGS:
            rest.insert(0, "-" + value)
        else:
            equals = "="
    if key in _VALUES:
        if not equals:
            if not rest:
                raise Usage(f"{prog}: {key} needs a value: write {key} VALUE.")
            value = rest.pop(0)
        setattr(wanted, _VALUES[key], value)
    elif key in _FLAGS and not equals:
        name, flag = _FLAGS[key]
        setattr(wanted, name, flag)
    else:
        raise Usage(f"{prog}: there is no option {word}: {prog} --help lists them.")


def _name(wanted: Wanted, prog: str) -> None:
    """A wrong name in the environment must not keep the command from running; a typed one does."""
    if wanted.name:
        if not is_name(wanted.name):
            raise Usage(
                f"{prog}: {wanted.name!r} is no name of a trace: letters, digits, '.', '_' "
                "and '-', the first a letter or digit, at most 100."
            )
        return
    given = os.environ.get("TASK_TRACER_NAME", "")
    if given and not is_name(given):
        wanted.warning = (
            f"TASK_TRACER_NAME is {given!r}, which is no name of a trace (letters, digits, '.', "
            "'_', '-', at most 100): the time is used."
        )
        given = ""
    wanted.name = given or time.strftime("%Y%m%d%H%M%S")


def is_name(text: str) -> bool:
    """Whether a trace or a namespace may be called so."""
    return 0 < len(text) <= 100 and text[0] in _FIRST and not set(text) - _ALLOWED


def is_id(text: str) -> bool:
    """Whether a sender may be called so."""
    return 0 < len(text) <= MOST_ID and not any(map(_no_character, map(ord, text)))


def _no_character(number: int) -> bool:
    """Control characters, and what stands for bytes that are no text."""
    return number < 32 or 0x7F <= number < 0xA0 or 0xD800 <= number < 0xE000
