"""Labels: key=value pairs of a node, from its own settings and from the server.

The label `group` is a list, written with commas; both sides' groups are united. For every other
key the server's value wins. A node's own labels are changed only where they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from quarterdeck.core.model import Node
from quarterdeck.errors import Invalid

GROUP = "group"
KEY = re.compile(r"[A-Za-z0-9_./-]{1,63}")
MAX_LABELS = 64
MAX_VALUE = 255


def effective(node: Node) -> Mapping[str, str]:
    """The labels that targets look at and people are shown."""
    if not node.server_labels:
        return node.labels
    both = {**node.labels, **node.server_labels}
    groups = united(groups_of(node.labels), groups_of(node.server_labels))
    if groups:
        both[GROUP] = ",".join(groups)
    return both


def groups_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The groups that labels name, in the order of writing."""
    return values_of(labels, GROUP)


def values_of(labels: Mapping[str, str], key: str) -> tuple[str, ...]:
    """The values of one label: of a list with commas each, of no label none."""
    parts = (value.strip() for value in labels.get(key, "").split(","))
    return tuple(value for value in parts if value)


def united(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Both lists, each word once."""
    return tuple(dict.fromkeys((*first, *second)))


def changed(
    labels: Mapping[str, str],
    *,
    put: Mapping[str, str],
    drop: Iterable[str] = (),
    join: Sequence[str] = (),
    leave: Iterable[str] = (),
) -> dict[str, str]:
    """The server's labels of a node after a change: `put` sets, `drop` takes away, `join` and
    `leave` name groups. Raises Invalid for what can't be a label, and for too many."""
    for key, value in put.items():
        if not value:
            raise Invalid("labels", f"The label {key!r} has no value: write {key}=VALUE.")
    after = {**{key: value for key, value in labels.items() if key not in set(drop)}, **put}
    gone = set(leave)
    groups = [group for group in united(groups_of(after), join) if group not in gone]
    after.pop(GROUP, None)
    if groups:
        after[GROUP] = ",".join(groups)
    check_labels(after)
    return after


def check_labels(labels: Mapping[str, str]) -> None:
    """Labels are few, short and printable. Raises Invalid with a sentence."""
    if len(labels) > MAX_LABELS:
        raise Invalid("labels", f"{len(labels)} labels; a node has at most {MAX_LABELS}.")
    for key, value in labels.items():
        check_key(key)
        if len(value) > MAX_VALUE:
            raise Invalid(
                "labels",
                f"The value of label {key!r} has {len(value)} characters; at most {MAX_VALUE}.",
            )
        if not value.isprintable():
            raise Invalid("labels", f"The value of label {key!r} holds what can't be printed.")


def check_key(key: str) -> None:
    """Raises Invalid for what can't be the key of a label."""
    if KEY.fullmatch(key) is None:
        raise Invalid(
            "labels",
            f"{key[:80]!r} can't be the key of a label: use 1 to 63 letters, digits, _ . / -",
        )
