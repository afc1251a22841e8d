"""Wire messages only grow: today's code reads what every release wrote as it was meant."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from quarterdeck.wire.codec import Envelope, Sealed, decode, decode_chunk, open_envelope
from quarterdeck.wire.marks import decode_marks
from tests.compat.record import FOLDER, HTTP, meaning, messages

KINDS = {kind.__name__: kind for kind in messages()}


def recorded() -> list[tuple[str, str, bytes, Any]]:
    """(release, name, bytes, meaning) of every line of every recording."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                continue
            name, data, value = line.split("\t")
            found.append((path.stem, name, base64.b64decode(data), msgspec.json.decode(value)))
    return found


def read(name: str, data: bytes) -> object:
    """What today's code takes these bytes for."""
    kind, _, how = name.partition(" ")
    if kind == "Chunk":
        return decode_chunk(data)
    if kind == "marks":
        return decode_marks(data)[0]
    if how == "sealed":
        wanted: Sealed = decode(decode(data, Envelope).sealed, Sealed)
        return open_envelope(
            data, to=wanted.to, session=wanted.session, verify=lambda _, sign: sign == b"s" * 64
        )
    if KINDS[kind] in HTTP:
        return msgspec.json.decode(data, type=KINDS[kind])
    return decode(data, KINDS[kind])


def kept(now: Any, then: Any) -> bool:
    """Whether everything that was meant then is meant now; fields may have come."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(key in now and kept(now[key], value) for key, value in then.items())
    if isinstance(then, list) and isinstance(now, list):
        return len(now) == len(then) and all(map(kept, now, then))
    return bool(now == then)


@pytest.mark.parametrize(
    ("name", "data", "then"),
    [pytest.param(*line[1:], id=f"{line[0]} {line[1]}") for line in recorded()],
)
def test_what_a_release_wrote_is_read_as_it_was_meant(name: str, data: bytes, then: Any) -> None:
    now = full(read(name, data))
    assert kept(now, then), f"{name}: {now} is not {then}"


def full(message: object) -> Any:
    """Every field, also those that have their defaults."""
    if isinstance(message, msgspec.Struct):
        plain = {name: full(getattr(message, name)) for name in message.__struct_fields__}
        tag = message.__struct_config__.tag
        return {"type": tag, **plain} if tag else plain
    if isinstance(message, list | tuple):
        return [full(one) for one in message]
    return meaning(message)


def test_every_message_is_in_a_recording() -> None:
    names = {name.partition(" ")[0] for _, name, _, _ in recorded()}
    assert names >= KINDS.keys(), "record the new ones: python -m tests.compat.record"


def test_a_changed_meaning_would_be_seen() -> None:
    then = {"a": 1, "b": [{"c": 2}]}
    assert kept({"a": 1, "b": [{"c": 2, "new": 0}], "new": 0}, then)
    assert not kept({"a": 1, "b": []}, then)
    assert not kept({"a": 1, "b": [{"c": 3}]}, then)
    assert not kept({"b": [{"c": 2}]}, then)
