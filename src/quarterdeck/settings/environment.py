"""The environment of this process, as tasks, children and proxies need it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from quarterdeck.settings import PREFIX

ATTEMPT_MARK = "QD_ATTEMPT"


def proxy_variables() -> dict[str, str]:
    """What the environment says of proxies, by lower-case names, which count first."""
    names = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")
    found = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in names}
    return {name: value for name, value in found.items() if value}


def task_environment() -> dict[str, str]:
    """What a task inherits: the agent's environment without quarterdeck's own variables.

    Variables that are not valid UTF-8 are left out: they can't be written into an order.
    """
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(PREFIX) and _utf8(key) and _utf8(value)
    }


def marked() -> str | None:
    """The attempt this process was started in, if any: its mark must not be inherited."""
    return os.environ.get(ATTEMPT_MARK)


def without_mark() -> dict[str, str]:
    """The environment of this process without the mark of an attempt."""
    return {key: value for key, value in os.environ.items() if key != ATTEMPT_MARK}


def child_environment(decided: Iterable[str]) -> dict[str, str]:
    """The environment for a child whose settings in `decided` come from its parent: variables
    meant for the parent (`QD_DATA` of `qd up`) must not override them."""
    names = {PREFIX + name.upper() for name in decided}
    return {key: value for key, value in os.environ.items() if key not in names}


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
