"""Target expressions: what they hit, how they bind, and where they say they went wrong."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quarterdeck.core.model import Node
from quarterdeck.core.target import (
    MAX_DEPTH,
    MAX_LENGTH,
    notes,
    parse,
    resolve,
    resolved,
)
from quarterdeck.errors import Conflict, Invalid
from tests.unit.target_fleet import FLEET, NOW, node

thorough = settings(max_examples=300)


def hit(text: str) -> str:
    return " ".join(each.id for each in resolve(text, FLEET, NOW))


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
        ("a or 'web1", 5, "this quote is never closed"),
        ('a or web"1', 8, "this quote is never closed"),
        ("a | label:=x", 4, "label:KEY=VALUE"),
        ("a | label:env=", 4, "label:KEY=VALUE"),
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
        resolve(" twin ", FLEET, NOW)
    assert caught.value.code == "ambiguous_node"


def test_two_nodes_of_one_name_are_hit_by_glob_operator_or_id() -> None:
    assert hit("twi?") == "n5 n6"
    assert hit("twin or web1") == "n5 n6 n1"
    assert hit("(twin)") == "n5 n6"
    assert hit("n6") == "n6"


def test_a_name_that_is_another_nodes_id_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        resolve("n1", [*FLEET, node("n1", "n9", {})], NOW)


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
    assert resolve(names + ",web1", FLEET, NOW) == [FLEET[0]]
    with pytest.raises(Invalid, match=str(MAX_LENGTH)):
        parse("a" * (MAX_LENGTH + 1))


# ---- quotes, states, ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"odd name"', "o1"),
        ("'odd name'", "o1"),
        ("odd' 'name", "o1"),
        ('"and"', "o2"),
        ("name:and", "o2"),
        ('"ready" or name:gone', "o3 o4"),
        ('label:site="New York"', "o1"),
        ("label:site=New*", "o1"),
        ('label:site="New*"', ""),
        ('label:site="New "*', "o1"),
        (r"""label:say='it\'s (not) "so"'""", "o2"),
        ('"label:site=x"', "o5"),
        ('label:"si"te=*', ""),
    ],
)
def test_what_is_quoted_is_taken_as_it_is(text: str, expected: str) -> None:
    odd = [
        node("odd name", "o1", {"site": "New York"}),
        node("and", "o2", {"say": 'it\'s (not) "so"'}),
        node("ready", "o3", {}),
        node("gone", "o4", {}),
        node("label:site=x", "o5", {}),
    ]
    if text == 'label:"si"te=*':
        with pytest.raises(Invalid, match="label:KEY=VALUE"):
            parse(text)
        return
    found = resolve(text, odd, NOW)
    assert " ".join(sorted(each.id for each in found)) == expected


STATES = [
    node("here", "s1", {}),
    node("quiet", "s2", {}, last_seen=NOW - timedelta(seconds=20)),
    node("away", "s3", {}, last_seen=NOW - timedelta(hours=2)),
    node("leaving", "s4", {}, draining=True),
    node("copied", "s5", {}, quarantined=True),
    node("new", "s6", {}, approved=False),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ready", "s1 s4"),
        ("silent", "s2"),
        ("gone", "s3"),
        ("quarantined", "s5"),
        ("draining", "s4"),
        ("os:debian and not draining", "s3 s5 s1 s2"),
        ("ready & !draining", "s1"),
        ("all", "s3 s5 s1 s4 s2"),
        ("new", ""),
        ("id:s6", ""),
    ],
)
def test_states_and_drain_are_words_and_a_node_that_waits_for_approval_is_not_hit(
    text: str, expected: str
) -> None:
    assert " ".join(each.id for each in resolve(text, STATES, NOW)) == expected


LONG = [node("a", "n9f3c", {}), node("b", "n9f4d", {}), node("c", "n9f", {}), node("d", "nb", {})]


def test_the_beginning_of_an_id_is_enough_when_it_fits_one_node() -> None:
    assert [each.name for each in resolve("id:n9f3", LONG, NOW)] == ["a"]
    assert [each.name for each in resolve("id:nb or id:n9f4", LONG, NOW)] == ["b", "d"]
    assert [each.name for each in resolve("id:n9f", LONG, NOW)] == ["c"]
    assert resolve("id:x", LONG, NOW) == []
    with pytest.raises(Conflict, match=r"begin with 'n9': give more .*n9f3c, n9f4d, n9f") as caught:
        resolve("d or id:n9", LONG, NOW)
    assert caught.value.detail["position"] == 5


def test_targets_look_at_labels_of_both_sides() -> None:
    both = [node("a", "n1", {"group": "web"}, server_labels={"group": "db", "dc": "ams"})]
    for text in ("group:web", "group:db", "label:dc=ams", "label:group=d*"):
        assert resolve(text, both, NOW) == both


def test_ten_thousand_nodes_are_found_by_as_many_names_at_once() -> None:
    many = [node(f"web-{number}", f"n{number}", {}) for number in range(10_000)]
    names = ",".join(f"web-{number}" for number in range(0, 10_000, 2))
    assert len(resolve(names, many, NOW)) == 5000


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
        '"',
        "'",
        "\\",
        "id:n",
        "ready",
        "draining",
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
        tree = parse(text)
    except Invalid as error:
        position = error.detail["position"]
        assert isinstance(position, int)
        assert 0 <= position <= len(text)
        return
    with contextlib.suppress(Conflict):
        hits = resolved(text, FLEET, NOW)
        assert all(each in FLEET for each in hits.nodes) and hits.tree == tree
    with contextlib.suppress(Conflict):
        assert all(0 <= note.position < len(text) for note in notes(tree, FLEET, NOW))


ALL: frozenset[str] = frozenset(each.id for each in FLEET)
NAIVE: dict[str, Callable[[Node], bool]] = {
    "web*": lambda each: each.name.startswith("web"),
    "group:edge": lambda each: "edge" in each.labels.get("group", ""),
    "label:env=prod": lambda each: each.labels.get("env") == "prod",
    "os:ubuntu": lambda each: each.facts.os == "ubuntu",
    "n5": lambda each: each.id == "n5",
    "db1": lambda each: each.name == "db1",
    "'web1'": lambda each: each.name == "web1",
    "id:n4": lambda each: each.id == "n4",
    "draining": lambda each: each.draining,
    "ready": lambda each: not each.quarantined,
    "all": lambda each: True,
}
trees = st.recursive(
    st.sampled_from(sorted(NAIVE)).map(
        lambda atom: (atom, frozenset(each.id for each in FLEET if NAIVE[atom](each)))
    ),
    lambda inner: st.one_of(
        inner.map(lambda a: (f"not ({a[0]})", ALL - a[1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) & ({p[1][0]})", p[0][1] & p[1][1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) or ({p[1][0]})", p[0][1] | p[1][1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}),{p[1][0]}", p[0][1] | p[1][1])),
    ),
    max_leaves=8,
)


@thorough
@given(trees)
def test_operators_are_those_of_sets(tree: tuple[str, frozenset[str]]) -> None:
    text, expected = tree
    assert frozenset(each.id for each in resolve(f"({text})", FLEET, NOW)) == expected
