"""Names of other tools become names of traces.

A trace's name is `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`, a sender's id any text without control
characters. What does not fit is changed as little as can be: each other character becomes `-`,
what stands before the first letter or digit is dropped, the rest is cut. Names that become the same
are still traces of their own: the sender's own words tell them apart.
"""

from __future__ import annotations

import re

NAME_LENGTH = 100
SENDER_LENGTH = 255

_OTHER = re.compile(r"[^A-Za-z0-9._-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def trace_name(told: str, default: str) -> str:
    """The name of the trace; `default` when nothing of `told` is left."""
    name = _OTHER.sub("-", told.strip()).lstrip("._-")
    return name[:NAME_LENGTH] or default


def sender_id(told: str, default: str) -> str:
    """The id of the sender; `default` when nothing of `told` is left."""
    return _CONTROL.sub("-", told.strip())[:SENDER_LENGTH] or default
