"""Target expressions: what they hit, how they bind, and where they say they went wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quarterdeck.core.model import Facts, Node
from quarterdeck.core.target import MAX_DEPTH, MAX_LENGTH, parse, resolve, suggest
from quarterdeck.errors import Conflict, Invalid

thorough = settings(deadline=None, max_examples=300)


def node(name: str, id: str, labels: Mapping[str, str], os: str = "debian") -> Node:
    return Node(
        id=id,
        name=name,
        public_key="U" + id,
        created_at=datetime(2031, 5, 6, tzinfo=UTC),
        labels=labels,
        facts=Facts(os=os),
    )


FLEET = [
    node("web1", "n1", {"env": "prod", "group": "web,edge"}),
    node("web2", "n2", {"env": "test", "group": "web"}),
    node("db1", "n3", {"env": "prod", "group": "db"}, os="ubuntu"),
    node("db2", "n4", {"env": "prod", "group": "db,edge", "tier": "1"}),
    node("twin", "n5", {}),
    node("twin", "n6", {}),
]


def hit(text: str) -> str:
    return " ".join(each.id for each in resolve(text, FLEET))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "n3 n4 n5 n6 n1 n2"),
        ("web1", "n1"),
        ("  web1\t", "n1"),
        ("WEB1", ""),
        ("web*", "n1 n2"),
        ("*", "n3 n4 n5 n6 n1 n2"),
        ("web?", "n1 n2"),
        ("db[12]", "n3 n4"),
        ("n4", "n4"),
        ("n*", ""),
        ("id:n4", "n4"),
        ("id:n*", ""),
        ("name:db1", "n3"),
        ("name:twin", "n5 n6"),
        ("os:debian", "n4 n5 n6 n1 n2"),
        ("os:*bu*", "n3"),
        ("label:env=prod", "n3 n4 n1"),
        ("label:env=*", "n3 n4 n1 n2"),
        ("label:tier=1", "n4"),
        ("label:no=*", ""),
        ("group:web", "n1 n2"),
        ("group:edge", "n4 n1"),
        ("group:web,edge", "n1 n2"),
        ("label:group=d?", "n3 n4"),
        ("nothing", ""),
    ],
)
def test_an_atom_hits_what_it_names(text: str, expected: str) -> None:
    assert hit(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web1 or db1", "n3 n1"),
        ("web1 | db1", "n3 n1"),
        ("web1,db1", "n3 n1"),
        ("web1,web1,n1", "n1"),
        ("web* and label:env=prod", "n1"),
        ("web*&label:env=prod", "n1"),
        ("not group:*", "n5 n6"),
        ("!group:*", "n5 n6"),
        ("not not web1", "n1"),
        ("!!web1", "n1"),
        ("not all", ""),
        ("web1 or db* and os:ubuntu", "n3 n1"),
        ("(web1 or db*) and os:ubuntu", "n3"),
        ("not web* and group:*", "n3 n4"),
        ("not (web* and group:edge) and group:*", "n3 n4 n2"),
        ("web1,db*&group:edge", "n4 n1"),
        ("not web1 or web1", "n3 n4 n5 n6 n1 n2"),
        ("((((web1))))", "n1"),
        ("(web1)|(db1)", "n3 n1"),
        ("all and not (group:web or group:db)", "n5 n6"),
    ],
)
def test_not_binds_before_and_before_or(text: str, expected: str) -> None:
    assert hit(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("web1 db1", 5, "'db1' is not expected here"),
        ("web1 and", 8, "is missing"),
        ("not", 3, "is missing"),
        ("and web1", 0, "'and' is not expected here"),
        ("web1 and or db1", 9, "'or' is not expected here"),
        ("web1,,db1", 5, "',' is not expected here"),
        ("  (web1", 2, "never closed"),
        ("a & (b | (c)", 4, "never closed"),
        ("web1)", 4, "')' is not expected here"),
        ("()", 1, "')' is not expected here"),
        ("a | label:env", 4, "label:KEY=VALUE"),
        ("a | group:", 10, "`group:` needs a value"),
        ("a | gruop:web", 4, "did you mean `group:`"),
        ("a | zzz:web", 4, "known: id, label, group, os, name"),
        ("web[!1]", 4, "'!' is not expected here"),
    ],
)
def test_an_error_says_where_and_what(text: str, position: int, words: str) -> None:
    with pytest.raises(Invalid, match=re.escape(words)) as caught:
        parse(text)
    assert caught.value.code == "target"
    assert caught.value.detail["position"] == position
    assert f"position {position}" in caught.value.message


@pytest.mark.parametrize("text", ["", "   ", "\t\n"])
def test_an_empty_target_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(Invalid, match="say `all`"):
        parse(text)


def test_a_plain_name_of_two_nodes_is_a_conflict_that_names_their_ids() -> None:
    with pytest.raises(Conflict, match=r"n5, n6") as caught:
        resolve(" twin ", FLEET)
    assert caught.value.code == "ambiguous_node"


def test_two_nodes_of_one_name_are_hit_by_glob_operator_or_id() -> None:
    assert hit("twi?") == "n5 n6"
    assert hit("twin or web1") == "n5 n6 n1"
    assert hit("(twin)") == "n5 n6"
    assert hit("n6") == "n6"


def test_a_name_that_is_another_nodes_id_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        resolve("n1", [*FLEET, node("n1", "n9", {})])


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100 + "a" + ")" * 100,
        "(" * 30_000,
        "!" * 60_000 + "a",
        "not " * 15_000 + "a",
        "!(" * 20_000,
    ],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=f"deeper than {MAX_DEPTH}"):
        parse(text)


def test_nesting_up_to_the_limit_is_read() -> None:
    deep = MAX_DEPTH - 1
    assert hit("(" * deep + "web1" + ")" * deep) == "n1"


def test_a_long_flat_list_is_read_and_a_longer_text_refused() -> None:
    names = ",".join(f"node{number}" for number in range(7000))
    assert len(names) < MAX_LENGTH
    assert resolve(names + ",web1", FLEET) == [FLEET[0]]
    with pytest.raises(Invalid, match=str(MAX_LENGTH)):
        parse("a" * (MAX_LENGTH + 1))


def test_a_suggestion_names_what_is_close() -> None:
    assert suggest("wbe1", FLEET) == "Did you mean web1?"
    assert suggest("db", FLEET).startswith("Did you mean db")


def test_a_suggestion_without_anything_close_lists_some_names() -> None:
    many = [node(f"x{number}", f"n{number}", {}) for number in range(20)]
    assert suggest("completely-else", FLEET) == "Nodes: db1, db2, twin, web1, web2."
    assert suggest("completely-else", many) == (
        "Nodes: x0, x1, x10, x11, x12, x13, x14, x15, and 12 more."
    )


def test_a_suggestion_for_an_empty_fleet_says_how_to_enrol() -> None:
    assert "qd agent --join" in suggest("web1", [])


# ---- properties

pieces = st.sampled_from(
    [
        "and",
        "or",
        "not",
        "(",
        ")",
        "!",
        "&",
        "|",
        ",",
        " ",
        "all",
        "web1",
        "db*",
        "[",
        "]",
        "id:",
        "label:",
        "label:env=prod",
        "group:web",
        "os:*",
        "gruop:x",
        "=",
        ":",
        "\x1f",
        "\u3000",
        "é",
    ]
)


@thorough
@given(st.text(max_size=60) | st.lists(pieces, max_size=20).map("".join))
@example("[[a]--b]")
@example("[z-a]")
@example("\x1c")
def test_any_text_is_read_or_refused_as_invalid(text: str) -> None:
    try:
        match = parse(text)
    except Invalid as error:
        position = error.detail.get("position", 0)
    else:
        position = 0
        assert all(isinstance(match(each), bool) for each in FLEET)
    assert isinstance(position, int)
    assert 0 <= position <= len(text)


ALL: frozenset[str] = frozenset(each.id for each in FLEET)
atoms = st.sampled_from(["web*", "group:edge", "label:env=prod", "os:ubuntu", "n5", "all"])
trees = st.recursive(
    atoms.map(lambda atom: (atom, frozenset(hit(atom).split()))),
    lambda inner: st.one_of(
        inner.map(lambda a: (f"not ({a[0]})", ALL - a[1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) & ({p[1][0]})", p[0][1] & p[1][1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) or ({p[1][0]})", p[0][1] | p[1][1])),
    ),
    max_leaves=8,
)


@thorough
@given(trees)
def test_operators_are_those_of_sets(tree: tuple[str, frozenset[str]]) -> None:
    text, expected = tree
    assert frozenset(each.id for each in FLEET if parse(text)(each)) == expected
