"""What an agent says and does while the server that should let it in is away or does not answer."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from quarterdeck.agent.main import Agent
from quarterdeck.service import SystemClock, first_of
from quarterdeck.settings import AgentSettings, Secret
from quarterdeck.telemetry import FabricTrouble, ServerLost, Telemetry
from tests.e2e.up import QD
from tests.integration.server_host import Ears

DEADLINE_S = 30.0
PROMPT_S = 2.0  # the HTTP call itself would last 15 s


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


@pytest.mark.parametrize(
    "words", [("agent", "--name", "web1", "--state"), ("fabric", "--data")], ids=["agent", "leaf"]
)
def test_who_waits_for_a_server_that_accepts_and_never_answers_ends_at_once_when_told(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(DEADLINE_S)
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        join = "--join" if words[0] == "agent" else "--leaf-of"
        asking = subprocess.Popen([QD, *words, str(tmp_path / "state"), join, url, "--token", "t"])
        try:
            asked, _ = mute.accept()
            with asked:
                asked.settimeout(DEADLINE_S)
                assert asked.recv(4) == b"POST"
                began = time.monotonic()
                asking.send_signal(signal.SIGTERM)
                assert asking.wait(DEADLINE_S) == 0
                assert time.monotonic() - began < PROMPT_S
        finally:
            asking.kill()
            asking.wait(DEADLINE_S)
