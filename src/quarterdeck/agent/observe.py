"""The node about itself: facts, figures and the heartbeat loop.

Waits for: each (re)connection to the fabric, and every `heartbeat_s`, shifted by a hash of the node
id so that a fleet does not beat in one instant.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping

import msgspec

from quarterdeck.agent.host import Host
from quarterdeck.agent.settle import Settling
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.service import Clock, Poke, jitter
from quarterdeck.wire import subjects
from quarterdeck.wire.agentless import AgentlessReport
from quarterdeck.wire.codec import decode, encode
from quarterdeck.wire.run import BEAT_LIMIT, BeatNow, Heartbeat


def listed(held: Mapping[str, int], number: int) -> tuple[tuple[str, int], ...]:
    """What the beat of this number names of the attempts held: all, or `BEAT_LIMIT` of them.

    Two beats name the same ones, as a difference counts only when two show it; the next two name
    those that follow, until each had its turn.
    """
    every = sorted(held.items())
    if len(every) <= BEAT_LIMIT:
        return tuple(every)
    start = (number - 1) // 2 * BEAT_LIMIT % len(every)
    return tuple((every + every)[start : start + BEAT_LIMIT])


class Beats:
    """Sends heartbeats. `unreleased` gives attempts and revisions, `full` why no work is taken.

    While `contact_counts` (some attempt has `lost_after`), a beat asks for an answer, and each
    answer of a server is a `contact` that the shims look at.
    """

    def __init__(
        self,
        *,
        node: str,
        name: str,
        session: str,
        before: str,
        labels: Mapping[str, str],
        slots: int,
        every_s: float,
        fabric: Fabric,
        host: Host,
        clock: Clock,
        unreleased: Callable[[], dict[str, int]],
        full: Callable[[], str],
        contact_counts: Callable[[], bool],
        settling: Settling,
        agentless: Callable[[], AgentlessReport] | None = None,
    ) -> None:
        self._node = node
        self._name = name
        self._session = session
        self._before = before
        self._labels = dict(labels)
        self._every_s = every_s
        self._fabric = fabric
        self._host = host
        self._clock = clock
        self._unreleased = unreleased
        self._full = full
        self._contact_counts = contact_counts
        self._settling = settling
        self._agentless = agentless
        self._number = 0
        self._within_s = 0.0
        facts = host.facts()
        self._facts = msgspec.structs.replace(facts, slots=slots) if slots else facts
        self.now = Poke()

    async def beat_on(self) -> None:
        """Loop: a beat now, then one per period; one more when `now` is poked."""
        phase = int.from_bytes(hashlib.sha256(self._node.encode()).digest()[:4]) / 2**32
        wait_s = self._every_s * (0.1 + 0.9 * phase)
        while True:
            try:
                await self._beat()
            except Unavailable:
                await asyncio.sleep(0)  # the link is down: the next connection pokes `now`
            await self.now.wait(wait_s)
            wait_s = self._every_s
            delay_s, self._within_s = self._within_s * jitter(), 0.0
            await asyncio.sleep(delay_s)

    def asked(self, message: Message) -> None:
        """The handler of a server's request for a beat."""
        try:
            wish: BeatNow = decode(message.data, BeatNow)
        except Invalid:
            return
        if wish.quarantined:
            self._settling.quarantined()
            return
        self._within_s = min(max(wish.within_s, 0.0), self._every_s)
        self.now("asked")

    async def _beat(self) -> None:
        held = self._unreleased()
        self._number += 1
        beat = Heartbeat(
            node=self._node,
            session=self._session,
            before=self._before,
            number=self._number,
            name=self._name,
            at=self._clock.now().timestamp(),
            facts=self._facts,
            load=msgspec.structs.replace(self._host.load(), attempts=len(held)),
            labels=self._labels,
            full=self._full(),
            attempts=listed(held, self._number),
            attempt_count=len(held),
            agentless=None if self._agentless is None else self._agentless(),
        )
        if not self._contact_counts():
            await self._fabric.publish(subjects.beat(self._node), encode(beat))
            self._settling.beaten()
            return
        await self._fabric.request(subjects.beat(self._node), encode(beat), timeout_s=self._every_s)
        self._settling.beaten()
        self._host.contact()
