"""The seam between an agent and its machine: attempts kept, shims run, output read.

What an agent decides (run, output, orders, observe, outbox) knows its machine only through `Host`.
`agent/local.py` is the real one; `agent/simulated/` is a whole machine in memory. One suite
holds for both.

What any host promises:
1. `accept`, `ask`, `Claim.end` and `bury` are durable when they return: a crash of the agent or of
   the machine right after finds them again. When they raise OSError nothing has changed.
2. An attempt has at most one holder: its shim, or whoever has its `Claim`. Only the holder may
   start it, clear up after it, or write its end, so these are methods of the claim.
3. A shim starts its command at most once, and never when the directory says that it began before.
4. Output grows and is never rewritten; it is whole before the end can be seen.
5. Facts of a directory are never taken back, until `release` deletes it and leaves a tombstone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from quarterdeck.agent.held import REVOKED, Held, Refusal, Remains, Request, Terms
from quarterdeck.agent.shim import files
from quarterdeck.wire.run import FactsMessage, LoadMessage, OrderMessage


class Claim(Protocol):
    """The lock of one attempt, held by the agent. `close` gives it up and may be called twice."""

    async def start(self) -> int:
        """Hand the lock to a new shim, which starts the order; its pid. The claim is closed.

        Raises Broken: no shim was made.
        """
        ...

    async def clear(self, held: Held) -> Remains:
        """Kill what a dead shim left behind, measure the output it wrote."""
        ...

    async def end(self, end: files.Exit) -> None:
        """Record an end that no shim could. Raises OSError."""
        ...

    def close(self) -> None: ...


class Spool(Protocol):
    """The output of one attempt on its node: `stdout`, `stderr` and the marks in `times`."""

    async def size(self, name: str) -> int:
        """Its present length; 0 while there is none."""
        ...

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the present end."""
        ...

    async def read_behind(self, room: int, name: str, offset: int, length: int) -> bytearray:
        """What `read` gives, behind `room` bytes for a header: it is not copied for it."""
        ...

    def acked(self) -> dict[str, int]:
        """The offsets up to which the fabric has taken output; empty when not known."""
        ...

    def save_acked(self, offsets: dict[str, int]) -> None:
        """A hint only: losing it means sending some output twice. Never raises."""
        ...

    def close(self) -> None: ...


class Watch(Protocol):
    """A callback while a directory changes, until `close`."""

    @property
    def patience_s(self) -> float:
        """How long to wait for a callback before looking oneself."""
        ...

    def close(self) -> None: ...


class Host(Protocol):
    """One machine as its agent uses it. Attempt ids that are none raise Invalid everywhere."""

    async def start(self) -> None:
        """Take the state directory. Raises Conflict when another agent has it, Unavailable when
        it can't be used."""
        ...

    async def stop(self) -> None:
        """Give it up; shims live on. May be called twice."""
        ...

    def scan(self) -> list[str]:
        """The attempts that are here; what an interrupted accept or release left is removed."""
        ...

    async def accept(self, attempt: str, order: OrderMessage) -> None:
        """Write the order durably. Raises OSError, or Invalid for what this machine can't do (an
        unknown user): then nothing was accepted."""
        ...

    def look(self, attempt: str) -> Held | None:
        """What its directory says now, None when there is none. Never raises for damage."""
        ...

    async def terms(self, attempt: str) -> Terms:
        """What its order says about time; never raises for damage."""
        ...

    def claim(self, attempt: str) -> Claim | None:
        """Take the attempt's lock; None while a shim has it."""
        ...

    async def until_shim_gone(self, attempt: str) -> None:
        """Wait until no shim holds the attempt any more."""
        ...

    async def ask(self, attempt: str, request: Request | None) -> None:
        """Record a request and have the shim look. Raises OSError.

        Of signals the request is all there were. None only has the shim look again: an agent may
        have died between its record and its word.
        """
        ...

    async def release(self, attempt: str) -> None:
        """Delete an ended attempt; its tombstone keeps a stray order from starting it again."""
        ...

    async def bury(self, attempt: str, why: Refusal = REVOKED) -> None:
        """Set a tombstone for what was never accepted. Raises OSError."""
        ...

    def buried(self, attempt: str) -> Refusal | None:
        """Why it must never start here; None without a tombstone."""
        ...

    async def prune(self, before: float) -> int:
        """Remove tombstones set before a unix time; how many."""
        ...

    def watch(
        self,
        attempt: str,
        changed: Callable[[], None],
        output: Callable[[], None] | None = None,
    ) -> Watch:
        """Call back in the event loop when the attempt's files change. `output` may be called in
        place of `changed` when nothing but the files of its output has."""
        ...

    def spool(self, attempt: str) -> Spool: ...

    def facts(self) -> FactsMessage:
        """What this machine is."""
        ...

    def load(self) -> LoadMessage:
        """Its figures now; processor use is since the last reading."""
        ...

    def free_bytes(self) -> int:
        """Free space where attempts are kept."""
        ...

    def contact(self) -> None:
        """A server was heard: attempts with `lost_after` live on."""
        ...
