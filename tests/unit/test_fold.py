"""Folding: same results meet, whatever came first; names in short; differences steer nothing."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.fold import (
    MAX_DIFF_LINES,
    Result,
    StreamSum,
    abbreviated,
    difference,
    grouped,
    lines_of,
)


def result(node: str, text: str = "a", code: int = 0, err: str = "") -> Result:
    return Result(
        task=f"t-{node}",
        node=node,
        outcome="failed" if code else "succeeded",
        exit_code=code,
        stdout=StreamSum(bytes=len(text), sha256=f"sha of {text}"),
        stderr=StreamSum(bytes=len(err), sha256=f"sha of {err}"),
    )


def expanded(text: str) -> list[str]:
    """The names of an abbreviation, written another way than it was made."""
    words = re.findall(r"(?:\[[^\]]*\]|[^,\[\]])+", text)
    names = []
    for word in words:
        found = re.fullmatch(r"(.*)\[(.*)\](.*)", word)
        if found is None:
            names.append(word)
            continue
        for part in found[2].split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names.append(f"{found[1]}{number:0{len(first)}}{found[3]}")
    return names


def test_the_largest_group_comes_first_and_names_are_in_their_natural_order() -> None:
    results = [result(f"web-{n}") for n in range(1, 12)] + [result("web-12", "b", 2)]
    groups = grouped(reversed(results))
    assert [(group.count, group.nodes) for group in groups] == [(11, "web-[1-11]"), (1, "web-12")]
    assert groups[0].sample.node == "web-1"


def test_an_exit_code_or_a_stream_makes_a_difference_unless_it_is_left_out() -> None:
    results = [result("a"), result("b", code=1), result("c", err="x"), result("d")]
    assert [group.nodes for group in grouped(results)] == ["a,d", "c", "b"]
    assert [group.nodes for group in grouped(results, by_stdout=True)] == ["a,c,d", "b"]


def test_nothing_written_is_the_same_whether_a_hash_of_it_is_known_or_not() -> None:
    unknown = Result(task="t", node="b", outcome="succeeded", exit_code=0)
    assert len(grouped([result("a", ""), unknown])) == 1


def test_names_in_short() -> None:
    assert abbreviated(["web-003", "web-001", "web-002", "db"]) == "db,web-[001-003]"
    assert abbreviated(["vm", "vm-2", "vm-10", "vm-11"]) == "vm,vm-[2,10-11]"
    assert abbreviated(["a1.x.org", "a2.x.org", "b"]) == "a[1-2].x.org,b"
    assert abbreviated(["same", "same"]) == "same"
    assert abbreviated([]) == ""


NAMES = st.lists(
    st.one_of(
        st.from_regex(r"(web-|db|a\.b|)[0-9]{1,3}(\.x[0-9]?)?", fullmatch=True),
        st.from_regex(r"[a-z.-]{1,3}", fullmatch=True),
    ),
    max_size=30,
)


@given(NAMES)
def test_an_abbreviation_names_all_and_no_other(names: list[str]) -> None:
    assert sorted(expanded(abbreviated(names))) == sorted(set(names))


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from("ab"), st.integers(0, 1))), st.data())
def test_groups_do_not_depend_on_the_order_in_which_results_came(
    given_results: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    unique = {n: result(f"web-{n}", text, code) for n, text, code in given_results}
    results = list(unique.values())
    groups = grouped(results)
    assert grouped(data.draw(st.permutations(results))) == groups
    assert sum(group.count for group in groups) == len(results)
    assert [group.count for group in groups] == sorted((g.count for g in groups), reverse=True)


def test_what_would_steer_a_terminal_is_spelled_out_and_still_differs() -> None:
    red, plain = b"\x1b[31mred\x1b[0m\n", b"red\n"
    assert lines_of(red) == [r"\x1b[31mred\x1b[0m"]
    assert lines_of(b"a\rb\x9b\xe2\x80\xae\xff\x00\r\n") == [r"a\rb\x9b\u202e\xff\x00"]
    assert difference(lines_of(red), lines_of(plain))[1:] == [r"-\x1b[31mred\x1b[0m", "+red"]
    assert lines_of(b"a") == ["a (no line end)"]


@given(st.binary(max_size=200))
def test_nothing_that_is_shown_can_steer(data: bytes) -> None:
    assert all(line.isprintable() for line in lines_of(data))


def test_a_difference_has_the_line_numbers_of_the_whole() -> None:
    old = [f"line {n}" for n in range(1, 101)]
    new = [*old[:59], "other", *old[60:]]
    assert difference(old, new) == [
        "@@ -58,5 +58,5 @@",
        " line 58",
        " line 59",
        "-line 60",
        "+other",
        " line 61",
        " line 62",
    ]
    assert difference(old, old) == []
    assert difference([], ["a"]) == ["@@ -0,0 +1 @@", "+a"]
    assert difference(["a", "a"], ["a"])[-1] == "-a"


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_a_difference_turns_the_one_into_the_other(old: list[str], new: list[str]) -> None:
    made, at = [], 0
    for line in difference(old, new):
        head = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+.*", line)
        if head is not None:
            begin = int(head[1]) - (head[2] != "0")
            made += old[at:begin]
            at = begin
        elif line[0] in " +":
            made.append(line[1:])
        at += head is None and line[0] in " -"
    assert made + old[at:] == new


def test_a_difference_is_bounded_whatever_is_compared() -> None:
    chance = random.Random(7)
    old = [str(chance.random()) for _ in range(50_000)]
    found = difference(old, [str(chance.random()) for _ in range(50_000)])
    assert len(found) == MAX_DIFF_LINES + 1 and "more" in found[-1]
