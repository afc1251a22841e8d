"""Facts on their way to EV: the newest snapshot of each attempt, sent until it is taken.

Waits for: new snapshots, and the fabric's answers. A stream that is full pauses everything with a
growing, jittered delay; meanwhile newer snapshots replace older ones, so nothing piles up.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from quarterdeck.core.states import Phase
from quarterdeck.fabric.base import Fabric, Stored
from quarterdeck.fabric.topology import TOO_LARGE
from quarterdeck.service import Poke, Services, jitter
from quarterdeck.telemetry import FactTooLarge, Telemetry
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import encode
from quarterdeck.wire.run import AttemptSnapshot

AT_ONCE = 64
HOLD_S = 0.02
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
SHORT_ERROR = 4096
"""Characters of an error that a fact keeps when it was too large for the stream."""


class Outbox:
    """Delivers snapshots; a lost answer only means that one is sent twice."""

    def __init__(
        self,
        *,
        node: str,
        session: str,
        fabric: Fabric,
        services: Services,
        telemetry: Telemetry,
    ) -> None:
        # ids are deduplicated over all nodes: no other node knows a session, so none can use ours
        self._session = session
        self._subject = subjects.snapshots(node)
        self._fabric = fabric
        self._services = services
        self._telemetry = telemetry
        self._newest: dict[str, AttemptSnapshot] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._held: set[str] = set()
        self._poke = Poke()
        self._pause_s = 0.0

    def put(self, snapshot: AttemptSnapshot) -> None:
        """Send this instead of any older one of the attempt.

        An end goes at once; what else there is to say waits a moment, because most commands are
        short and their end says it all: one commit of the server instead of three.
        """
        attempt = snapshot.attempt
        self._newest[attempt] = snapshot
        if snapshot.phase == Phase.ENDED.value:
            self._held.discard(attempt)
            self._poke(attempt)
        elif attempt not in self._held:
            self._held.add(attempt)
            self._services.spawn(self._hold(attempt), f"moment of {attempt}")

    def forget(self, attempt: str) -> None:
        """Its end is known and archived: nothing more is to be sent."""
        self._newest.pop(attempt, None)

    async def _hold(self, attempt: str) -> None:
        await asyncio.sleep(HOLD_S)
        if attempt in self._held:
            self._held.discard(attempt)
            self._poke(attempt)

    async def send_facts(self) -> None:
        """Loop: send what waits, a few at once."""
        while True:
            await self._poke.wait(1.0 if self._newest else None)
            if self._pause_s:
                await asyncio.sleep(self._pause_s * (0.5 + jitter()))
            for attempt in list(self._newest):
                if len(self._sending) >= AT_ONCE:
                    break
                if attempt not in self._sending and attempt not in self._held:
                    task = self._services.spawn(self._send(attempt), f"fact {attempt}")
                    self._sending[attempt] = task
                    task.add_done_callback(partial(self._sent, attempt))

    async def _send(self, attempt: str) -> None:
        snapshot = self._newest[attempt]
        try:
            data = encode(msgspec.structs.replace(snapshot, session=self._session))
        except OverflowError:  # a damaged journal: a number that no message holds
            del self._newest[attempt]
            return
        answer = await self._fabric.store(
            self._subject,
            data,
            message_id=f"{self._session}:{attempt}:{snapshot.revision}:{int(snapshot.cached)}",
        )
        if isinstance(answer, Stored):
            self._pause_s = 0.0
            self._done(snapshot)
        elif answer.code == TOO_LARGE:
            self._too_large(snapshot, len(data))
        else:
            self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), MAX_PAUSE_S)

    def _done(self, snapshot: AttemptSnapshot) -> None:
        if self._newest.get(snapshot.attempt) is snapshot:
            del self._newest[snapshot.attempt]

    def _too_large(self, snapshot: AttemptSnapshot, size: int) -> None:
        """The stream will never take it: say it in fewer words, or not at all; the server still
        has the beats, and asks."""
        attempt, error = snapshot.attempt, snapshot.error or ""
        self._telemetry.emit(FactTooLarge(attempt=attempt, bytes=size))
        if self._newest.get(attempt) is not snapshot:
            return
        del self._newest[attempt]
        if len(error) > SHORT_ERROR:
            cut = f"{error[:SHORT_ERROR]} ..."
            self._newest[attempt] = msgspec.structs.replace(snapshot, error=cut)

    def _sent(self, attempt: str, _task: asyncio.Task[None]) -> None:
        self._sending.pop(attempt, None)
        if self._newest:
            self._poke(attempt)
