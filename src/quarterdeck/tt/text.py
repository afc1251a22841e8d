"""JSON without the library's own module, whose imports cost as much as Python's start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _json
except ImportError:  # another Python than CPython
    _json = None  # type: ignore[assignment]


class _How:
    """What the scanner asks for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def decode(data: bytes) -> dict[str, Any]:
    """An object; an empty one for anything else."""
    text = data.decode("utf-8", "replace").strip()
    try:
        found, end = _scan(text)
    except (StopIteration, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and end == len(text) else {}


def _scan(text: str) -> tuple[Any, int]:
    if _json is None:
        import json

        return json.loads(text), len(text)
    how: Any = _How
    scanned: tuple[Any, int] = _json.make_scanner(how)(text, 0)
    return scanned


def _quoted(text: str) -> str:
    if _json is None:
        import json

        return json.dumps(text)
    return _json.encode_basestring_ascii(text)


def encode(value: object) -> str:
    """Text, numbers, None, and lists and objects of these, on one line."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode(str(k))}:{encode(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(encode, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no place in JSON")
