"""How things travel in memory: in order along each pipe, after its latency, and what goes wrong.

A pipe is one direction of one connection. Like TCP it loses nothing while it stands: what meets a
partition is held and goes on when that is healed, unless one side has given the connection up
before. Losses, repeats and changes of order (`Faults`) happen inside the core.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import msgspec

_AT_ONCE = float("-inf")


class Chance(msgspec.Struct, kw_only=True):
    """What becomes of one kind of message; chances in 0..1.

    A delayed one is overtaken by what was sent up to `delay_s` later.
    """

    lost: float = 0.0
    doubled: float = 0.0
    delayed: float = 0.0
    delay_s: float = 1.0


class Faults(msgspec.Struct, kw_only=True):
    """The plan of faults: change any of it at any time.

    `core`: messages to present listeners, requests and answers. `stores`: messages on their way
    into a stream. `acks`: answers of streams to those, and acknowledgements to consumers.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    core: Chance = msgspec.field(default_factory=Chance)
    stores: Chance = msgspec.field(default_factory=Chance)
    acks: Chance = msgspec.field(default_factory=Chance)


class Pipe:
    """One direction of a connection. `blocked`: things are held; `broken`: they vanish."""

    def __init__(self) -> None:
        self.blocked = False
        self.broken = False
        self.held: list[Callable[[], object]] = []
        self.last_due = 0.0


class Wire:
    """Calls what was sent when it is due, in the order of sending for equal times."""

    def __init__(self, random: Callable[[], float], faults: Faults) -> None:
        self._random = random
        self._faults = faults
        self._heap: list[tuple[float, int, Pipe, Callable[[], object]]] = []
        self._next = 0
        self._handle: asyncio.Handle | None = None
        self._at = 0.0

    def send(self, pipe: Pipe, arrive: Callable[[], object]) -> None:
        """`arrive` is called at the other end of the pipe, after all that was sent before."""
        delay = self._faults.latency_s
        if self._faults.jitter_s:
            delay += self._faults.jitter_s * self._random()
        pipe.last_due = max(pipe.last_due, asyncio.get_running_loop().time() + delay)
        self._put(pipe.last_due, pipe, arrive)

    def meet(self, pipe: Pipe, chance: Chance, happen: Callable[[], object]) -> None:
        """`happen` is called now, later, twice or never, as chance will have it."""
        if chance.lost and self._random() < chance.lost:
            return
        copies = 2 if chance.doubled and self._random() < chance.doubled else 1
        for copy in range(copies):
            if copy or (chance.delayed and self._random() < chance.delayed):
                delay = self._random() * chance.delay_s
                self._put(asyncio.get_running_loop().time() + delay, pipe, happen)
            else:
                happen()

    def open(self, pipe: Pipe) -> None:
        """What was held goes on, before all that is still under way."""
        pipe.blocked = False
        held, pipe.held = pipe.held, []
        for arrive in held:
            self._put(_AT_ONCE, pipe, arrive)

    def _put(self, due: float, pipe: Pipe, arrive: Callable[[], object]) -> None:
        self._next += 1
        heapq.heappush(self._heap, (due, self._next, pipe, arrive))
        self._arm()

    def _arm(self) -> None:
        if not self._heap:
            return
        due = self._heap[0][0]
        if self._handle is not None:
            if self._at <= due:
                return
            self._handle.cancel()
        loop = asyncio.get_running_loop()
        self._at = due
        if due <= loop.time():
            self._handle = loop.call_soon(self._deliver)
        else:
            self._handle = loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        self._handle = None
        now, newest = asyncio.get_running_loop().time(), self._next
        try:
            # What is sent meanwhile waits for the next turn of the loop: others run between.
            while self._heap and self._heap[0][0] <= now and self._heap[0][1] <= newest:
                _, _, pipe, arrive = heapq.heappop(self._heap)
                if pipe.blocked:
                    pipe.held.append(arrive)
                elif not pipe.broken:
                    arrive()
        finally:
            self._arm()
