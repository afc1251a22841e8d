"""Labels: whose value counts, how groups unite, and what can't be a label."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from quarterdeck.core.label import MAX_LABELS, MAX_VALUE, changed, check_labels, effective
from quarterdeck.core.model import Node
from quarterdeck.errors import Invalid


def node(own: Mapping[str, str], given: Mapping[str, str]) -> Node:
    return Node(
        id="n1",
        name="web1",
        public_key="U1",
        created_at=datetime(2031, 5, 6, tzinfo=UTC),
        labels=own,
        server_labels=given,
    )


def test_the_server_wins_but_for_groups_which_are_united() -> None:
    found = effective(node({"dc": "ams", "group": "web,edge", "env": "prod"}, {"dc": "fra"}))
    assert found == {"dc": "fra", "group": "web,edge", "env": "prod"}
    found = effective(node({"group": "web, edge"}, {"group": "edge,db"}))
    assert found == {"group": "web,edge,db"}
    assert effective(node({}, {"group": "db"})) == {"group": "db"}


def test_a_change_puts_drops_joins_and_leaves() -> None:
    have = {"dc": "ams", "group": "web,edge"}
    assert changed(have, put={"env": "x"}) == {"dc": "ams", "group": "web,edge", "env": "x"}
    assert changed(have, put={}, drop=["dc", "no"]) == {"group": "web,edge"}
    assert changed(have, put={}, join=["db", "web"], leave=["edge"])["group"] == "web,db"
    assert changed(have, put={}, leave=["edge", "web"]) == {"dc": "ams"}
    assert changed(have, put={"group": "db"}) == {"dc": "ams", "group": "db"}
    assert changed(have, put={}, drop=["group"]) == {"dc": "ams"}
    assert changed(have, put={"dc": "fra"}, drop=["dc"])["dc"] == "fra"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"": "x"}, "can't be the key"),
        ({"a b": "x"}, "'a b' can't be the key"),
        ({"k" * 64: "x"}, "1 to 63 letters"),
        ({"é": "x"}, "can't be the key"),
        ({"dc": "x" * (MAX_VALUE + 1)}, "256 characters; at most 255"),
        ({"dc": "a\nb"}, "can't be printed"),
        ({f"k{n}": "x" for n in range(MAX_LABELS + 1)}, "65 labels; a node has at most 64"),
    ],
)
def test_what_can_not_be_a_label_is_refused_in_a_sentence(
    labels: Mapping[str, str], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        check_labels(labels)


def test_a_label_is_not_set_to_nothing() -> None:
    with pytest.raises(Invalid, match="write dc=VALUE"):
        changed({}, put={"dc": ""})


def test_labels_up_to_the_bounds_are_taken() -> None:
    check_labels({"a.b/c-d_E9": "New York: é"} | {f"k{n}": "x" * MAX_VALUE for n in range(63)})
