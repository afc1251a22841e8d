"""Globs of a target: how many there may be, and what they are compared with."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.core.label import effective
from quarterdeck.core.model import Node
from quarterdeck.core.target import MAX_WILDCARDS, match, notes, parse, resolve, resolved, values
from quarterdeck.errors import Invalid
from tests.unit.target_fleet import FLEET, NOW, node

thorough = settings(max_examples=300)


def hit(text: str) -> str:
    return " ".join(each.id for each in resolve(text, FLEET, NOW))


def test_more_globs_than_a_fleet_can_be_compared_with_are_refused_where_they_begin() -> None:
    most = ",".join(["group:w*", "web?"] * (MAX_WILDCARDS // 2))
    assert hit(most) == "n1 n2"
    with pytest.raises(Invalid, match=f"at most {MAX_WILDCARDS} of") as caught:
        parse(most + ",web1,db*,x")
    assert caught.value.detail["position"] == len(most) + len(",web1,")


@pytest.mark.parametrize("operator", [",", "&", " & !"])
def test_labels_are_put_together_once_for_a_node_however_often_a_target_asks(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(each: Node) -> Mapping[str, str]:
        asked.append(each.id)
        return effective(each)

    monkeypatch.setattr(match, "effective", counted)
    resolve(operator.join(f"label:env=p*{number}" for number in range(MAX_WILDCARDS)), FLEET, NOW)
    assert sorted(asked) == sorted(each.id for each in FLEET)


def test_a_glob_is_compared_only_with_names_that_begin_as_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []

    class Pattern:
        def match(self, name: str) -> None:
            compared.append(name)

    monkeypatch.setattr(values, "pattern", lambda word: Pattern())
    monkeypatch.setattr(values, "FEW", 0)
    monkeypatch.setattr(values, "DENSE", 1)
    assert hit("web*") == "n1 n2" and not compared
    assert hit("web[0-9]*,d?2,*wi?") == ""
    assert compared == ["web1", "web2", "db1", "db2", "twin"]
    assert hit("draining & *w*") == "" and len(compared) == 5


@thorough
@given(
    st.lists(st.text("ab-*?[]", min_size=1, max_size=6), min_size=1, max_size=4),
    st.lists(st.text("ab-", min_size=1, max_size=6), max_size=12),
)
def test_a_glob_hits_what_its_translation_fits(globs: list[str], names: list[str]) -> None:
    fleet = [node(name, f"n{at}", {}) for at, name in enumerate(names)]
    expected = {
        each.id
        for each in fleet
        if any(re.match(fnmatch.translate(glob), each.name) for glob in globs)
    }
    text = ",".join(f"name:{glob}" for glob in globs)
    for few, dense in ((256, 8), (0, 8), (0, 1)):  # each way to leave names out
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(values, "FEW", few)
            patch.setattr(values, "DENSE", dense)
            found = resolved(text, fleet, NOW)
            assert {each.id for each in found.nodes} == expected
            assert bool(notes(found.tree, fleet, NOW)) == any(
                not resolve(f"name:{glob}", fleet, NOW) for glob in globs
            )
