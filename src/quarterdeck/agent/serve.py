"""The agent process, from start to stop; what it started goes on without it."""

from __future__ import annotations

import os
import threading

import msgspec

from quarterdeck.agent.main import Agent
from quarterdeck.agent.parts import Parts, open_parts
from quarterdeck.agent.ssh.proxy import AgentlessNodes
from quarterdeck.service import Clock, Services, SystemClock, first_of, until_told
from quarterdeck.settings import AgentSettings
from quarterdeck.telemetry import StopCutOff, Telemetry
from quarterdeck.telemetry.lines import log_to

STOP_S = 10.0
SAY_S = 9.5
NAMED = 5


async def serve(settings: AgentSettings, *, parent_fd: int | None) -> None:
    """Run until a signal or the end of the supervisor."""
    telemetry = Telemetry()
    telemetry.subscribe(log_to(level=settings.log_level))
    agent = Agent(settings, telemetry=telemetry, clock=SystemClock(), opened=_opened)
    code = 1
    try:
        await first_of(agent.start(), until_told(parent_fd))
        code = 0
    finally:
        _leave_by_then(code, agent, telemetry)
        await agent.stop()


def _leave_by_then(code: int, agent: Agent, telemetry: Telemetry) -> None:
    """The process ends after `STOP_S` at the latest, whatever its stop waits for: commands go on
    under their shims, and what counts is on the disk."""

    def leave() -> None:
        try:
            telemetry.emit(StopCutOff(what="agent", waits_for=agent.doing()[:NAMED]))
        finally:
            os._exit(code)

    # two: nobody may read what the first one says
    for after_s, end in ((SAY_S, leave), (STOP_S, lambda: os._exit(code))):
        timer = threading.Timer(after_s, end)
        timer.daemon = True
        timer.start()


def _opened(
    settings: AgentSettings, services: Services, telemetry: Telemetry, clock: Clock
) -> Parts:
    """This machine, and those that it reaches for the fleet."""
    parts = open_parts(settings, services, telemetry, clock)
    proxy = AgentlessNodes(settings, services, telemetry, clock)
    return msgspec.structs.replace(parts, proxy=proxy)
