"""The words of `qd node label`."""

from __future__ import annotations

import pytest

from quarterdeck.cli.node import label_body
from quarterdeck.errors import Invalid


def test_each_word_says_what_is_to_change() -> None:
    assert label_body(("dc=ams", "env-", "group+=web", "group-=db", "note=a=b-", "group-")) == {
        "put": {"dc": "ams", "note": "a=b-"},
        "drop": ["env", "group"],
        "join": ["web"],
        "leave": ["db"],
    }


@pytest.mark.parametrize("word", ["dc", "=x", "-", ""])
def test_a_word_that_says_nothing_is_refused(word: str) -> None:
    with pytest.raises(Invalid, match="write KEY=VALUE, KEY-"):
        label_body((word,))
