"""Tells waiting screens inside this process that something changed; they read the store again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quarterdeck.service import Poke


def run_topic(run: str) -> str:
    """The topic of one run."""
    return f"run:{run}"


class Changes:
    """Topics and who waits for them. A change that nobody waits for costs a dictionary look-up."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Poke]] = {}

    def tell(self, topic: str) -> None:
        for poke in self._waiting.get(topic, ()):
            poke(topic)

    @contextmanager
    def watch(self, topic: str) -> Iterator[Poke]:
        """A poke that fires at each change from now on."""
        poke = Poke()
        self._waiting.setdefault(topic, set()).add(poke)
        try:
            yield poke
        finally:
            waiting = self._waiting[topic]
            waiting.discard(poke)
            if not waiting:
                del self._waiting[topic]
