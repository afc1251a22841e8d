"""Tells waiting screens and loops that something changed; they read the store again.

A change committed by this server is told to those who wait here at once, and to the other servers
through the fabric. The message only wakes: one that is lost delays a screen until it looks again
by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.service import Poke
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import decode, encode
from quarterdeck.wire.observe import Changed

TOPICS_PER_MESSAGE = 500


def run_topic(run: str) -> str:
    """The topic of one run."""
    return f"run:{run}"


def end_topic(run: str) -> str:
    """The topic of the end of one run: for those whom nothing before it concerns."""
    return f"end:{run}"


def node_topic(node: str) -> str:
    """The topic of one node: what people decide about it, not its beats."""
    return f"node:{node}"


def run_of(topic: str) -> str | None:
    """The run of a topic of one, None for other topics."""
    kind, _, id = topic.partition(":")
    return id if kind == "run" else None


def node_of(topic: str) -> str | None:
    """The node of a topic, None for topics of other things."""
    kind, _, id = topic.partition(":")
    return id if kind == "node" else None


class Changes:
    """Topics and who waits for them. A change that nobody waits for costs a dictionary look-up."""

    def __init__(self, server: str, alone: Callable[[], bool]) -> None:
        self._server = server
        self.alone = alone
        self._waiting: dict[str, set[Poke]] = {}
        self._outgoing = Poke()
        self._on_foreign: list[Callable[[tuple[str, ...]], None]] = []

    def tell(self, topic: str) -> None:
        """This server has committed a change of `topic`."""
        self._wake(topic)
        if not self.alone():
            self._outgoing(topic)

    def on_foreign(self, callback: Callable[[tuple[str, ...]], None]) -> None:
        """Call back with the topics that another server changed."""
        self._on_foreign.append(callback)

    async def announce(self, fabric: Fabric) -> None:
        """Loop: tell the other servers. Waits for changes of this one."""
        while True:
            topics = sorted(await self._outgoing.wait())
            for start in range(0, len(topics), TOPICS_PER_MESSAGE):
                part = tuple(topics[start : start + TOPICS_PER_MESSAGE])
                message = encode(Changed(server=self._server, topics=part))
                try:
                    await fabric.publish(subjects.CHANGED, message)
                except Unavailable:
                    break  # the others look by themselves

    def heard(self, message: Message) -> None:
        """The handler of what other servers announce."""
        try:
            changed: Changed = decode(message.data, Changed)
        except Invalid:
            return
        if changed.server == self._server:
            return
        for topic in changed.topics:
            self._wake(topic)
        for callback in self._on_foreign:
            callback(changed.topics)

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

    def _wake(self, topic: str) -> None:
        for poke in self._waiting.get(topic, ()):
            poke(topic)
