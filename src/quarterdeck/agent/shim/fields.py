"""One record of an attempt's directory: a JSON object, read field by field, trusting nothing.

Every complaint names the file.
"""

from __future__ import annotations

import base64
import json
import math
import os
from typing import Any, TypeVar

VERSION = 1
Folder = str | os.PathLike[str]

_T = TypeVar("_T")


class Fields:
    """One JSON object of a file, read field by field with the file's name in every complaint."""

    def __init__(self, path: str, values: dict[str, Any]) -> None:
        self._path = path
        self._values = values

    def broken(self, what: str) -> ValueError:
        return ValueError(f"{self._path} {what}; the file is corrupt")

    def get(self, name: str, kind: type[_T]) -> _T:
        value = self.opt(name, kind)
        if value is None:
            raise self.broken(f'lacks "{name}"')
        return value

    def opt(self, name: str, kind: type[_T]) -> _T | None:
        value = self._values.get(name)
        if type(value) is int and not -(2**53) <= value <= 2**53:
            raise self.broken(f'has a "{name}" out of bounds')
        # bool is an int in Python, never in our files
        if value is not None and (not isinstance(value, kind) or type(value) is bool is not kind):
            raise self.broken(f'has a wrong "{name}"')
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value: object = self._values.get(name, default)
        if isinstance(value, int | float) and type(value) is not bool and 0 <= value < math.inf:
            return float(value)
        raise self.broken(f'has a wrong "{name}"')

    def blob(self, name: str) -> bytes | None:
        text = self.opt(name, str)
        try:
            return None if text is None else base64.b64decode(text, validate=True)
        except ValueError:
            raise self.broken(f'has a "{name}" that is not base64') from None

    def texts(self, name: str, values: list[Any]) -> tuple[str, ...]:
        if not all(isinstance(value, str) for value in values):
            raise self.broken(f'has a "{name}" that is not a list of strings')
        return tuple(values)

    def environ(self, name: str) -> dict[str, str]:
        values = self.get(name, dict)
        if not all(isinstance(value, str) for value in values.values()):
            raise self.broken(f'has a "{name}" with a value that is not a string')
        return dict(values)

    def one_of(self, name: str, words: tuple[str, ...]) -> str:
        value = self._values.get(name, words[0])
        if value not in words:
            raise self.broken(f'has a "{name}" other than {" or ".join(words)}')
        return str(value)

    def part(self, name: str) -> Fields:
        return Fields(self._path, self.get(name, dict))


def load(folder: Folder, name: str, *, versioned: bool = True) -> Fields | None:
    """The fields of a file, None when there is none. ValueError: it is corrupt."""
    path = os.path.join(os.fspath(folder), name)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); the file is corrupt") from None
    fields = Fields(path, values if isinstance(values, dict) else {})
    if not isinstance(values, dict):
        raise fields.broken("is not a JSON object")
    if versioned and values.get("v") != VERSION:
        raise ValueError(f"{path} has version {values.get('v')!r}; this one reads only {VERSION}")
    return fields
