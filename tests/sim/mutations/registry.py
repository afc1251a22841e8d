"""The list of mutations, and how one is put into the code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Set = Callable[[object, str, object], None]
Mutation = Callable[[Set], None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The real code with one bug in it; nothing with an empty name."""
    undo: list[Callable[[], None]] = []

    def put(owner: object, attribute: str, value: object) -> None:
        before = getattr(owner, attribute)
        undo.append(lambda: setattr(owner, attribute, before))
        setattr(owner, attribute, value)

    if name:
        MUTATIONS[name](put)
    try:
        yield
    finally:
        for each in reversed(undo):
            each()
