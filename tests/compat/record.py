"""Writes the recording of a release: every wire message as its bytes, with what they mean.

`python -m tests.compat.record` adds to `recordings/VERSION.txt` what it does not hold yet; no line
is changed afterwards. A line holds a name, the bytes in base64, and their meaning as JSON.
"""

from __future__ import annotations

import base64
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import quarterdeck.wire.observe
import quarterdeck.wire.run  # noqa: F401
from quarterdeck.core.stream import Mark
from quarterdeck.wire import enrol
from quarterdeck.wire.codec import Chunk, Envelope, Sealed, WireMessage, encode, encode_chunk
from quarterdeck.wire.marks import encode_marks

HTTP = (enrol.Enrolment, enrol.Credentials)
FOLDER = Path(__file__).parent / "recordings"
CHUNKS = {
    "Chunk stdout": Chunk("stdout", 2**40, 1_700_000_000_000_001, b"a\0\xff\n"),
    "Chunk stderr": Chunk("stderr", 0, 0, b""),
}
MARKS = [Mark("stdout", 0, 1), Mark("stderr", 2**40, 1_700_000_000_000_001)]


def messages() -> list[type[msgspec.Struct]]:
    """Every kind of message that crosses, by name."""
    kinds: list[type[msgspec.Struct]] = [*HTTP, *_below(WireMessage)]
    return sorted(kinds, key=lambda kind: kind.__name__)


def _below(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for sub in kind.__subclasses__():
        if sub.__module__.startswith("quarterdeck."):
            yield sub
        yield from _below(sub)


def example(kind: type[msgspec.Struct], *, whole: bool) -> msgspec.Struct:
    """A message with a value in every field, or only in those that must be there."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {
        field.name: _value(field.type, field.name, whole=whole)
        for field in info.fields
        if whole or field.required
    }
    return kind(**fields)


def _value(of: Any, name: str, *, whole: bool) -> Any:
    match of:
        case msgspec.inspect.StrType():
            return f"{name} \u00fc"
        case msgspec.inspect.BytesType():
            return name.encode() + b"\0\xff"
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 2**31 + len(name)
        case msgspec.inspect.FloatType():
            return 1_700_000_000.25
        case msgspec.inspect.StructType(cls=cls):
            return example(cls, whole=whole)
        case msgspec.inspect.VarTupleType(item_type=item):
            every = item.types if isinstance(item, msgspec.inspect.UnionType) else (item,)
            return tuple(_value(one, name, whole=whole) for one in every)
        case msgspec.inspect.TupleType(item_types=items):
            return tuple(_value(one, name, whole=whole) for one in items)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return {_value(key, name, whole=whole): _value(value, name, whole=whole)}
        case msgspec.inspect.UnionType(types=types):
            first = next(t for t in types if not isinstance(t, msgspec.inspect.NoneType))
            return _value(first, name, whole=whole)
    raise AssertionError(f"no example of {of}")


def meaning(message: object) -> Any:
    """A decoded message as plain JSON values."""
    return msgspec.json.decode(msgspec.json.encode(message))


def lines() -> Iterator[str]:
    """The recording of the code as it is."""
    yield f"# written by quarterdeck {importlib.metadata.version('quarterdeck')}"
    for kind in messages():
        for word, whole in (("whole", True), ("least", False)):
            message = example(kind, whole=whole)
            data = msgspec.json.encode(message) if kind in HTTP else encode(message)
            yield _line(f"{kind.__name__} {word}", data, meaning(message))
    sealed = example(Sealed, whole=True)
    envelope = Envelope(sealed=encode(sealed), signature=b"s" * 64)
    yield _line("Envelope sealed", encode(envelope), meaning(sealed))
    for name, chunk in CHUNKS.items():
        yield _line(name, encode_chunk(chunk), meaning(chunk))
    yield _line("marks", encode_marks(MARKS), meaning(MARKS))


def _line(name: str, data: bytes, value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return "\t".join((name, base64.b64encode(data).decode(), text))


if __name__ == "__main__":
    path = FOLDER / f"{importlib.metadata.version('quarterdeck')}.txt"
    held = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = {line.partition("\t")[0] for line in held}
    held += [line for line in lines() if line.partition("\t")[0] not in names]
    path.write_text("\n".join(held) + "\n", encoding="utf-8")
