"""The options of `qd run` that say how its tasks follow one another, as the body of a request."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from quarterdeck.cli.options import Duration
from quarterdeck.core.label import check_labels
from quarterdeck.core.plan import amount_text, parse_amount
from quarterdeck.errors import Invalid

RETRY_OPTIONS = {
    "retry_delay": "delay_s",
    "retry_factor": "factor",
    "retry_max_delay": "max_delay_s",
    "retry_on": "retry_on",
    "never_retry_on": "never_on",
    "retry_elsewhere": "elsewhere",
}


class AmountOption(click.ParamType[str]):
    """`3`, `20%`, or both: `2,10%`."""

    name = "amount"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        try:
            return amount_text(parse_amount(str(value), param.opts[0]))
        except Invalid as error:
            self.fail(error.message.removeprefix(f"{param.opts[0]}: "), param, ctx)


class Codes(click.ParamType[tuple[int, ...]]):
    """Exit codes: `1,75`."""

    name = "codes"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",")]
        if not all(word.isascii() and word.isdigit() and int(word) < 256 for word in words):
            self.fail(f"{value!r} are no exit codes: write for instance 1,75.", param, ctx)
        return tuple(int(word) for word in words)


PERCENT = click.FloatRange(0, 100)
FIGURES = ("least_load", "least_memory", "fewest_tasks", "random")

OPTIONS = (
    click.option(
        "--max-parallel",
        type=AmountOption(),
        help="At most so many tasks at once: 3 or 20% (default all).",
    ),
    click.option(
        "--max-failures",
        type=AmountOption(),
        help="Start no more when more have failed: 2, 10% or 2,10% (whichever is less).",
    ),
    click.option(
        "--on-limit",
        type=click.Choice(["finish", "stop"]),
        default="finish",
        help="What becomes of running tasks then (default finish).",
    ),
    click.option(
        "--canary",
        type=click.IntRange(0),
        default=0,
        help="So many first; the rest if all succeed.",
    ),
    click.option("--deadline", type=Duration(), default=0.0, help="Stop the whole run after this."),
    click.option(
        "--on-timeout",
        type=click.Choice(["stop", "alert"]),
        default="stop",
        help="What --timeout means: stop the attempt, or only note that it is overdue.",
    ),
    click.option(
        "--retry",
        type=click.IntRange(0, 99),
        help="Try a task that failed up to so many times more.",
    ),
    click.option("--retry-delay", type=Duration(), help="Wait before the first retry (1s)."),
    click.option(
        "--retry-factor",
        type=click.FloatRange(1, 100),
        help="Each wait is so many times the one before (2); drawn evenly from nothing to that.",
    ),
    click.option("--retry-max-delay", type=Duration(), help="No wait is longer (5m)."),
    click.option("--retry-on", type=Codes(), metavar="CODES", help="Only after these exit codes."),
    click.option("--never-retry-on", type=Codes(), metavar="CODES", help="Not after these."),
    click.option("--retry-elsewhere", is_flag=True, help="On another node of the target."),
    click.option(
        "--idempotent", is_flag=True, help="Twice does no harm: retry lost attempts, too."
    ),
    click.option(
        "--pick",
        type=click.IntRange(0),
        metavar="N",
        help="Only N nodes of the target, chosen by --by (0 in `qd clone`: all of them again).",
    ),
    click.option(
        "--by",
        metavar="FIGURE",
        help="least_load (default), least_memory, fewest_tasks, random, or label:KEY.",
    ),
    click.option("--max-cpu", type=PERCENT, help="Pick no node that is busier (percent)."),
    click.option("--max-memory", type=PERCENT, help="Pick no node that uses more (percent)."),
    click.option(
        "--priority",
        type=click.IntRange(-1000, 1000),
        default=0,
        help="Of what waits for a slot of a node a higher one goes first.",
    ),
    click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of the run."),
)


def with_plan(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a plan; `plan_body` takes what they gave."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**given)

    made = wrapped
    for option in reversed(OPTIONS):
        made = option(made)
    return made


def plan_body(given: dict[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The part of the request's body that the options of a plan make. Raises Invalid.

    `before` is the request of the run that is cloned: what is not given stays as it was there.
    """
    if given["max_parallel"] is not None and given["max_parallel"].startswith("0"):
        amount = parse_amount(given["max_parallel"], "--max-parallel")
        if 0 in (amount.count, amount.percent):
            raise Invalid("amount", "--max-parallel: at least one task must be allowed at once.")
    known = before or {}
    _check_alone(given, known)
    body: dict[str, Any] = {
        "on_limit": given["on_limit"],
        "canary": given["canary"],
        "deadline_s": given["deadline"],
        "on_timeout": given["on_timeout"],
        "retry": _retry(given, known.get("retry") or {}),
        "labels": _labels(given["label"]),
        "priority": given["priority"],
    }
    pick = _pick(given, known.get("pick"), cloning=before is not None)
    if pick is not None or given["pick"] == 0:
        body["pick"] = pick
    for name in ("max_parallel", "max_failures"):
        if given[name] is not None:
            body[name] = given[name]
    return body


def _check_alone(given: dict[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse words that mean something only beside others."""
    if given["on_timeout"] == "alert" and not (given["timeout"] or known.get("timeout_s")):
        raise Invalid("timeout", "--on-timeout alert needs a --timeout.")
    limits = (given["canary"], given["max_failures"], known.get("canary"))
    limited = any(limits) or known.get("max_failures") is not None
    if given["on_limit"] == "stop" and not limited:
        raise Invalid("on_limit", "--on-limit stop needs a limit: --max-failures or --canary.")


def _pick(
    given: dict[str, Any], before: Mapping[str, Any] | None, *, cloning: bool
) -> dict[str, Any] | None:
    limits = {name: given[name] for name in ("max_cpu", "max_memory") if given[name] is not None}
    for name, limit in limits.items():
        if not limit:
            option = "--" + name.replace("_", "-")
            raise Invalid("pick", f"{option} 0 would fit no node: say more than 0 percent.")
    by, count = given["by"], given["pick"]
    if count == 0 and not cloning:
        raise Invalid("pick", "--pick 0 picks no node: leave it out to run on all of the target.")
    known = dict(before or {}) if count != 0 else {}
    if not count and not known:
        if limits or by:
            raise Invalid("pick", "To pick nodes, say how many: for instance --pick 2.")
        return None
    asked = {**known, **limits}
    if count:
        asked["count"] = count
    return asked | (_figure(by) if by else {})


def _figure(by: str) -> dict[str, str]:
    """What `--by` compares. Raises Invalid."""
    if by.startswith("label:") and by != "label:":
        return {"by": "label", "label": by.removeprefix("label:")}
    if by not in FIGURES:
        known = ", ".join(FIGURES)
        raise Invalid("pick", f"--by {by!r} is no figure: say {known} or label:KEY.")
    return {"by": by, "label": ""}


def _retry(given: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    # a flag that is not given is False, a value None: a time of 0 is given
    asked = {
        name: given[option]
        for option, name in RETRY_OPTIONS.items()
        if given[option] is not None and given[option] is not False
    }
    if given["idempotent"]:
        asked["idempotent"] = True
    tries = before.get("attempts", 1) if given["retry"] is None else given["retry"] + 1
    if tries == 1 and asked:
        raise Invalid("retry", "To try again, say how often: for instance --retry 3.")
    return {**before, **asked, "attempts": tries}


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Invalid("labels", f"--label {pair!r}: write KEY=VALUE.")
        labels[key] = value
    check_labels(labels)
    return labels
