"""Live messages for watchers: one subscription for each subject, however many watch it, and for
each watcher an inbox that is bounded in bytes.

What an inbox has no room for is dropped; its watcher is told the subject and reads it again from
wherever it is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from quarterdeck.control.crowd import Crowd
from quarterdeck.fabric.base import Fabric, Message, Subscription

PENDING_BYTES = 16 << 20  # twice what an agent has under way: what is dropped is read twice


class Inbox:
    """Live messages that wait for the watcher, bounded in bytes, alone and with all others: what
    is dropped becomes a gap. What was taken counts until the next is taken."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._taken = 0
        self._closed = False
        self.waiting: deque[Message] = deque()
        self.wake: Callable[[str], None] | None = None
        self._dropped: set[str] = set()
        self._bytes = 0

    def put(self, message: Message) -> None:
        if self._closed:
            return
        size = len(message.data)
        if self._bytes + size > PENDING_BYTES or not self._crowd.has_room(size):
            self._dropped.add(message.subject)
            return
        self.waiting.append(message)
        self._bytes += size
        self._crowd.keep(size)
        if self.wake is not None:
            self.wake("output")

    def take(self) -> tuple[list[Message], set[str]]:
        """(what waits, subjects of what was dropped since the last call)."""
        messages, dropped = list(self.waiting), self._dropped
        self.waiting.clear()
        self._dropped = set()
        self._crowd.give_back(self._taken)
        self._taken, self._bytes = self._bytes, 0
        return messages, dropped

    def close(self) -> None:
        """Nobody takes any more."""
        self._closed = True
        self.take()
        self.take()


class Feeds:
    """The subscriptions of all watchers of one server."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._turn = asyncio.Lock()
        self._inboxes: dict[str, set[Inbox]] = {}
        self._subscriptions: dict[str, Subscription] = {}

    async def join(self, inbox: Inbox, *subjects: str) -> None:
        """From now on the inbox gets what comes on these subjects (wildcards allowed)."""
        for subject in subjects:
            async with self._turn:
                inboxes = self._inboxes.setdefault(subject, set())
                inboxes.add(inbox)
                if subject not in self._subscriptions:
                    self._subscriptions[subject] = await self._fabric.subscribe(
                        subject, partial(_hand_out, inboxes)
                    )

    async def leave(self, inbox: Inbox, *subjects: str) -> None:
        """Undo a join, also one that was cut off. Waits for no turn: who is cancelled twice would
        leave its inbox behind, and whoever is joining now is among the inboxes already."""
        left = []
        for subject in subjects:
            inboxes = self._inboxes.get(subject, set())
            inboxes.discard(inbox)
            if not inboxes:
                self._inboxes.pop(subject, None)
                left.append(self._subscriptions.pop(subject, None))
        cut: asyncio.CancelledError | None = None
        for subscription in left:
            try:
                if subscription is not None:
                    await subscription.close()
            except asyncio.CancelledError as error:
                cut = error
        if cut is not None:
            raise cut


def _hand_out(inboxes: set[Inbox], message: Message) -> None:
    for inbox in inboxes:
        inbox.put(message)
