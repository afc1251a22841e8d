"""What was counted of one protocol."""

from __future__ import annotations

import msgspec


class Counts(msgspec.Struct, kw_only=True):
    """Since the start: `messages` that were understood, `bad` ones, those that came faster than
    allowed (`limited`), and bytes that found no room (`dropped`). `problem` is the last of them."""

    messages: int = 0
    bad: int = 0
    limited: int = 0
    dropped: int = 0
    problem: str = ""

    def refuse(self, why: str, peer: str) -> None:
        """A message that can't be taken."""
        self.bad += 1
        self.problem = f"{why} (from {peer})"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One protocol at one moment: where it listens, who is there, what was counted."""

    protocol: str
    listen: str
    connections: int
    senders: int
    messages: int
    bad: int
    limited: int
    dropped: int
    problem: str
