"""The agent process, from start to stop; what it started goes on without it."""

from __future__ import annotations

from quarterdeck.agent.main import Agent
from quarterdeck.service import SystemClock, first_of, until_told
from quarterdeck.settings import AgentSettings
from quarterdeck.telemetry import Telemetry, log_to


async def serve(settings: AgentSettings, *, parent_fd: int | None) -> None:
    """Run until a signal or the end of the supervisor."""
    telemetry = Telemetry()
    telemetry.subscribe(log_to(level=settings.log_level))
    agent = Agent(settings, telemetry=telemetry, clock=SystemClock())
    try:
        await first_of(agent.start(), until_told(parent_fd))
    finally:
        await agent.stop()
