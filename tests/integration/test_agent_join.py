"""What an agent says while the server that should let it in is away."""

from __future__ import annotations

from pathlib import Path

from quarterdeck.agent.main import Agent
from quarterdeck.service import SystemClock, first_of
from quarterdeck.settings import AgentSettings, Secret
from quarterdeck.telemetry import FabricTrouble, ServerLost, Telemetry
from tests.integration.server_host import Ears


async def test_a_server_that_is_away_is_not_called_a_trouble_of_the_fabric(tmp_path: Path) -> None:
    ears, telemetry = Ears(), Telemetry()
    telemetry.subscribe(ears.hear)
    settings = AgentSettings(
        state=str(tmp_path / "state"), join="http://127.0.0.1:1", token=Secret("t"), name="web1"
    )
    agent = Agent(settings, telemetry=telemetry, clock=SystemClock())

    async def lost() -> str:
        return (await ears.until(ServerLost)).error

    try:
        told = await first_of(agent.start(), lost())
    finally:
        await agent.stop()
    assert "http://127.0.0.1:1" in told and "can't be reached" in told
    assert not ears.all(FabricTrouble)
