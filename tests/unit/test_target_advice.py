"""What people are told about a target that hits less than it seems to."""

from __future__ import annotations

import pytest

from quarterdeck.core.target import Note, notes, parse, resolved, suggest
from tests.unit.target_fleet import FLEET, NOW, node


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("wbe1", 0, "No node is named 'wbe1'. Did you mean web1"),
        ("al", 0, "No node is named 'al'. Did you mean `all`?"),
        ("redy & db1", 0, "Did you mean `ready`?"),
        ("db* & wbe1", 6, "Did you mean web1"),
        ("web", 0, "Did you mean the group, group:web?"),
        ("edgy & group:web", 0, "Did you mean the group, group:edge?"),
        ("(group:wbe)", 1, "No node is in group 'wbe'. Did you mean web?"),
        ("label:evn=prod", 0, "No node has a label 'evn'. Did you mean env?"),
        ("label:env=prd", 0, "No node has the label env=prd. Did you mean prod?"),
        ("label:env=zzzz", 0, "Values: prod, test."),
        ("os:debain", 0, "No node runs 'debain'. Did you mean debian?"),
        ("id:q", 0, "The id of no node begins with 'q'"),
        ("web1 & draining", 7, "No node is draining."),
        ("silent", 0, "No node is silent."),
        ("zz*", 0, "The name of no node fits 'zz*'. Nodes: db1, db2, twin, web1, web2."),
        ("web1 & db1", 0, "Its parts hit no node in common."),
    ],
)
def test_advice_says_what_hits_nobody_and_what_is_near(
    text: str, position: int, words: str
) -> None:
    note = suggest(resolved(text, FLEET, NOW).tree, FLEET, NOW)
    assert note.position == position
    assert words in note.text


def test_advice_on_a_target_that_hits_some_names_the_rest() -> None:
    tree = resolved("web1, wbe2, group:edge, label:x=1", FLEET, NOW).tree
    assert [note.position for note in notes(tree, FLEET, NOW)] == [6, 24]


def test_advice_without_anything_near_lists_some_names() -> None:
    many = [node(f"x{number}", f"n{number}", {}) for number in range(20)]
    note = suggest(resolved("completely-else", many, NOW).tree, many, NOW)
    assert note.text.endswith("Nodes: x0, x1, x10, x11, x12, x13, x14, x15, and 12 more.")


def test_advice_for_an_empty_fleet_says_how_to_enrol_or_approve() -> None:
    tree = parse("web1")
    assert "qd agent --join" in suggest(tree, [], NOW).text
    waiting = [node("web1", "n1", {}, approved=False)]
    assert suggest(tree, waiting, NOW) == Note(
        position=0, text="web1 waits for approval: `qd node approve NODE` lets a node in."
    )
    assert "web1 waits" in suggest(tree, [*waiting, FLEET[2]], NOW).text
