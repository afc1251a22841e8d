"""The agent process, from start to stop; what it started goes on without it."""

from __future__ import annotations

import msgspec

from quarterdeck.agent.main import Agent
from quarterdeck.agent.parts import Parts, open_parts
from quarterdeck.agent.ssh.proxy import AgentlessNodes
from quarterdeck.service import Clock, Services, SystemClock, first_of, until_told
from quarterdeck.settings import AgentSettings
from quarterdeck.telemetry import Telemetry, log_to


async def serve(settings: AgentSettings, *, parent_fd: int | None) -> None:
    """Run until a signal or the end of the supervisor."""
    telemetry = Telemetry()
    telemetry.subscribe(log_to(level=settings.log_level))
    agent = Agent(settings, telemetry=telemetry, clock=SystemClock(), opened=_opened)
    try:
        await first_of(agent.start(), until_told(parent_fd))
    finally:
        await agent.stop()


def _opened(
    settings: AgentSettings, services: Services, telemetry: Telemetry, clock: Clock
) -> Parts:
    """This machine, and those that it reaches for the fleet."""
    parts = open_parts(settings, services, telemetry, clock)
    proxy = AgentlessNodes(settings, services, telemetry, clock)
    return msgspec.structs.replace(parts, proxy=proxy)
