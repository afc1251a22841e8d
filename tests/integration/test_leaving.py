"""An agent that is told to end is gone in time, also when its stop waits for what never comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE_S = 30.0
PROGRAM = """
import asyncio, sys
from quarterdeck.agent import main, serve
from quarterdeck.service import run
from quarterdeck.settings import AgentSettings

class Stuck(main.Agent):
    async def start(self):
        self._services.loop("what never ends", self.never)
        await asyncio.sleep(0)
        print("ready", flush=True)

    async def never(self):
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass

serve.Agent = Stuck
serve.SAY_S, serve.STOP_S = float(sys.argv[2]), float(sys.argv[3])
run(serve.serve(AgentSettings(state=sys.argv[1], name="stuck"), parent_fd=None))
"""


def told_to_end(state: Path, say_s: float, stop_s: float, log: int) -> int:
    words = [sys.executable, "-c", PROGRAM, str(state), str(say_s), str(stop_s)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"ready\n"
        agent.send_signal(signal.SIGTERM)
        return agent.wait(DEADLINE_S)


def test_a_stop_that_never_ends_is_cut_off_and_says_what_it_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert told_to_end(tmp_path / "state", 0.1, DEADLINE_S, log.fileno()) == 0
    (said,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (said["event"], said["waits_for"]) == ("StopCutOff", ["what never ends"])


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(65536))
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


def test_nor_does_a_log_that_nobody_reads_hold_it_up(tmp_path: Path, full_pipe: int) -> None:
    assert told_to_end(tmp_path / "state", 0.05, 0.2, full_pipe) == 0
