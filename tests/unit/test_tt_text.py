"""JSON as tt reads and writes it."""

from __future__ import annotations

import json

import pytest

from quarterdeck.tt import text
from quarterdeck.tt.text import decode, encode

FOUND: dict[str, object] = {
    "a": 'ü"\\\n\x00\ud83d\ude00',
    "b": [1, -2, 1.5, None, True, False, {}, []],
    "c": {"d": "e"},
}


@pytest.fixture(params=["quick", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(text, "_json", None)


@pytest.mark.usefixtures("way")
def test_what_is_written_is_what_others_read_and_the_other_way() -> None:
    assert json.loads(encode(FOUND)) == json.loads(json.dumps(FOUND))
    assert decode(b" " + json.dumps(FOUND).encode() + b"\n") == json.loads(json.dumps(FOUND))
    assert "\n" not in encode(FOUND)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"{", b'{"a": 1} x', b"<html>", b"\xff", b"[" * 100_000, b'{"a": nul}']
)
def test_what_is_no_object_is_an_empty_one(data: bytes) -> None:
    assert decode(data) == {}
