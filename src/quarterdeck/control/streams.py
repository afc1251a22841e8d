"""The streams loop: EV and OUT are there with our limits, also on a fabric that lost its store.

Waits for: each connection to the fabric, and a tick of `EVERY_S` (a stream can be lost while the
link stands: a cluster that was rebuilt behind it). Without EV nodes could tell no facts, so while
the streams can't be ensured the server is not ready.
"""

from __future__ import annotations

from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Limits
from quarterdeck.service import Poke
from quarterdeck.telemetry import FabricTrouble, Telemetry

EVERY_S = 15.0
RETRY_S = 1.0


class Streams:
    """`trouble` is empty while the streams were there when last looked at, else a sentence."""

    def __init__(self, *, fabric: Fabric, limits: Limits, telemetry: Telemetry, who: str) -> None:
        self._fabric = fabric
        self._limits = limits
        self._telemetry = telemetry
        self._who = who
        self._connected = Poke()
        self.trouble = ""

    async def ensure(self) -> None:
        """Make what is absent. Raises Unavailable, and Invalid for refused limits."""
        await self._fabric.ensure_streams(self._limits)

    def watch(self) -> None:
        """Look again at each connection."""
        self._fabric.on_connect(lambda: self._connected(""))

    async def keep(self) -> None:
        """Loop: see the module's theory."""
        while True:
            await self._connected.wait(RETRY_S if self.trouble else EVERY_S)
            await self._look()

    async def _look(self) -> None:
        try:
            await self.ensure()
        except (Unavailable, Invalid) as error:
            told, self.trouble = self.trouble, error.message
            if told != self.trouble:
                self._telemetry.emit(FabricTrouble(who=self._who, error=error.message))
        else:
            self.trouble = ""
