"""How far a server has come in its start, so that HTTP can answer before everything is there.

A call that needs what is not there yet waits for it a moment, so that a restart refuses nobody;
when the start takes longer (the fabric is away), it is told so at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum

from quarterdeck.errors import Unavailable
from quarterdeck.service import Clock, still_wanted

PATIENCE_S = 3.0
LOOK_AGAIN_S = 0.2


class Stage(IntEnum):
    """`RECORD`: the database is open and the nodes are known. `WHOLE`: the loops run too."""

    OPENING = 0
    RECORD = 1
    WHOLE = 2


class Progress:
    """The stage of one server; it only grows."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._grown = asyncio.Condition()
        self.stage = Stage.OPENING
        self._waits_for = "the database"

    @property
    def began(self) -> float:
        """When the process began, on the monotonic clock."""
        return self._began

    async def until_there(
        self, what: str, work: Callable[[], Awaitable[None]], told: Callable[[str], None]
    ) -> None:
        """Do `work`, again and again while what it needs is away; `told` hears each new reason."""
        self.waits_for(what)
        said = ""
        while True:
            try:
                return await work()
            except Unavailable as error:
                if error.message != said:
                    said = error.message
                    self.waits_for(f"{what} ({said.rstrip('.')})")
                    told(said)
            still_wanted()
            await asyncio.sleep(LOOK_AGAIN_S)

    def waits_for(self, what: str) -> None:
        """Note what the start waits for, as the object of "it waits for"."""
        self._waits_for = what

    async def reach(self, stage: Stage) -> None:
        async with self._grown:
            self.stage = stage
            self._grown.notify_all()

    def missing(self, stage: Stage = Stage.WHOLE) -> str:
        """Empty when the stage is reached, else a sentence."""
        if self.stage >= stage:
            return ""
        return f"The server is starting: it waits for {self._waits_for}."

    async def until(self, stage: Stage) -> None:
        """Return when the stage is reached. Raises Unavailable (`starting`) when it is not, at
        the latest `PATIENCE_S` after the start of the process."""
        if self.stage >= stage:
            return
        left_s = self._began + PATIENCE_S - self._clock.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left_s)), self._grown:
                await self._grown.wait_for(lambda: self.stage >= stage)
        except TimeoutError as error:
            text = f"{self.missing(stage)} Try again in a moment."
            raise Unavailable("starting", text) from error
