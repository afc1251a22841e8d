"""Who listens to a subject: a tree of tokens, `*` for one token, `>` for one or more."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


def matches(pattern: str, subject: str) -> bool:
    """Whether the pattern covers the subject, whose own wildcards count as plain tokens."""
    if pattern in (">", subject):
        return True
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(given) == len(wanted)


class _Level(Generic[T]):
    def __init__(self) -> None:
        self.next: dict[str, _Level[T]] = {}
        self.here: dict[int, T] = {}


class Interest(Generic[T]):
    """Subscriptions by pattern; what is found comes in the order of subscribing."""

    def __init__(self) -> None:
        self._top: _Level[T] = _Level()
        self._next = 0

    def add(self, pattern: str, one: T) -> int:
        """The answer is the number for `remove`."""
        level = self._top
        for token in pattern.split("."):
            level = level.next.setdefault(token, _Level())
        self._next += 1
        level.here[self._next] = one
        return self._next

    def remove(self, pattern: str, number: int) -> None:
        path, level = [], self._top
        for token in pattern.split("."):
            path.append((level, token))
            level = level.next[token]
        del level.here[number]
        for above, token in reversed(path):
            below = above.next[token]
            if not below.here and not below.next:
                del above.next[token]

    def find(self, subject: str) -> list[T]:
        found: dict[int, T] = {}
        levels = [self._top]
        for token in subject.split("."):
            deeper: list[_Level[T]] = []
            for level in levels:
                if ">" in level.next:
                    found.update(level.next[">"].here)
                deeper += [level.next[key] for key in ("*", token) if key in level.next]
            levels = deeper
        for level in levels:
            found.update(level.here)
        return [found[number] for number in sorted(found)]
