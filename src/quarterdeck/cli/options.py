"""Options that several commands share, and the words in which people write sizes and times."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import click

from quarterdeck.client.find import connect
from quarterdeck.client.http import Connection
from quarterdeck.errors import Invalid, QuarterdeckError

SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

NAMESPACE_HELP = "Act in this namespace (default: that of the token)."
MOST_BYTES = 1 << 50
MOST_SECONDS = 366 * SECONDS["d"]


class Duration(click.ParamType[float]):
    """`30`, `30s`, `5m`, `2h`, `1d`."""

    name = "time"

    def __init__(self, *, most_s: float = MOST_SECONDS) -> None:
        self._most_s = most_s

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float | int):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", value)
        if found is None:
            self.fail(f"{value!r} is not a time: write for instance 30s, 5m or 2h.", param, ctx)
        seconds = float(found[1][:40]) * SECONDS[found[2]]
        if seconds > self._most_s:
            self.fail(f"{value!r} is too long: at most 366d.", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """`1000`, `64k`, `10M`, `1G` (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", value.lower())
        if found is None:
            self.fail(f"{value!r} is not a size: write for instance 64k, 10M or 1G.", param, ctx)
        size = int(found[1][:20]) * BYTES[found[2]]
        if size > MOST_BYTES:
            self.fail(f"{value!r} is too large: at most 1024T.", param, ctx)
        return size


def check_target(target: str | None) -> None:
    """Raises Invalid for a target that says nothing."""
    if target is not None and not target.strip():
        text = "The target is empty: name nodes, a label (label:role=web) or `all`."
        raise Invalid("target", text)


@contextlib.contextmanager
def aiming(target: str | None) -> Iterator[None]:
    """Errors about a place in the target take it along, so that people are shown where."""
    try:
        yield
    except QuarterdeckError as error:
        if target is not None and "position" in error.detail:
            error.detail["target"] = target
        raise


class SignalName(click.ParamType[int]):
    """`HUP`, `SIGHUP`, `1`."""

    name = "signal"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        word = str(value).upper().removeprefix("SIG")
        if word.isdecimal() and 1 <= int(word) <= 64:
            return int(word)
        found = {one.name.removeprefix("SIG"): one.value for one in signal.Signals}
        if word not in found:
            self.fail(f"{value!r} is no signal: write for instance HUP, USR1 or 10.", param, ctx)
        return found[word]


def signal_name(number: int) -> str:
    """`HUP` for 1; the number of one that has no name."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that find a server; it gets a `Connection` as `server`."""

    @click.option("--url", metavar="URL", help="Address of a server.")
    @click.option("--token", metavar="TOKEN", help="API token (better: QD_TOKEN).")
    @click.option("--data", metavar="DIR", help="Data directory of a `qd up` on this machine.")
    @functools.wraps(command)
    def wrapped(url: str | None, token: str | None, data: str | None, **rest: Any) -> None:
        server: Connection = connect(url=url, token=token, data=data)
        command(server=server, **rest)

    return wrapped


def with_namespace(command: Callable[..., None]) -> Callable[..., None]:
    """`with_server`, and `--namespace`: its `Connection` names the namespace with every call."""

    @functools.wraps(command)
    def inside(server: Connection, namespace: str | None, **rest: Any) -> None:
        server.namespace = namespace
        command(server=server, **rest)

    return with_server(click.option("--namespace", metavar="NAME", help=NAMESPACE_HELP)(inside))


def with_fold(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--fold` and `--fold-by`; `fold_by` reads them."""

    @click.option("--fold", is_flag=True, help="Group equal results; show what differs.")
    @click.option(
        "--fold-by",
        type=click.Choice(["result", "stdout"]),
        help="What must be equal: everything (the default), or all but stderr.",
    )
    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**given)

    return wrapped


def fold_by(given: dict[str, Any]) -> str:
    """`result` or `stdout`; empty when nothing is to be folded. Raises Invalid beside words with
    which no result is shown."""
    by: str | None = given["fold_by"]
    found = by or ("result" if given["fold"] else "")
    for name in ("detach", "preview"):
        if found and given.get(name):
            raise Invalid("fold", f"--fold groups what tasks wrote; --{name} shows none of it.")
    return found
