"""One process of simulated agents (bench/agents.py), `python -m bench.simulated`.

It gets a `Task` as its first line, enrols its agents over HTTP with the join token, says when all
have beaten, answers each further line, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import local

import msgspec

from bench.agents import SimulatedAgent
from quarterdeck.client.http import Connection
from quarterdeck.fabric.identity import Identity
from quarterdeck.fabric.jwt import Kind, NKey
from quarterdeck.service import Services, SystemClock
from quarterdeck.wire.codec import encode
from quarterdeck.wire.enrol import Credentials, Enrolment, signed_part

ENROLLING_AT_ONCE = 4
DIALLING_AT_ONCE = 64


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does: so many agents, named from `first` on, of the fleet at `url`."""

    url: str
    token: str
    first: int
    count: int


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the process says: how many agents stand, since when each (monotonic seconds, the same
    for all processes of the machine), how many links were lost so far, how many
    attempts are held."""

    nodes: tuple[str, ...] = ()
    standing: int = 0
    since: tuple[float, ...] = ()
    lost: int = 0
    held: int = 0


class Process:
    """All agents of one process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._services = Services(lambda *_: None, SystemClock())
        self._agents: list[SimulatedAgent] = []
        self._http = local()

    async def start(self) -> None:
        """Enrol everybody, a few at once, and start them."""
        loop = asyncio.get_running_loop()
        numbers = range(self._task.first, self._task.first + self._task.count)
        with ThreadPoolExecutor(ENROLLING_AT_ONCE) as threads:
            enrolled = await asyncio.gather(
                *(loop.run_in_executor(threads, self._enrol, f"sim-{n:05d}") for n in numbers)
            )
        self._agents = [SimulatedAgent(*each, self._services) for each in enrolled]
        turns = asyncio.Semaphore(DIALLING_AT_ONCE)

        async def started(agent: SimulatedAgent) -> None:
            async with turns:
                await agent.start()

        await asyncio.gather(*map(started, self._agents))

    async def stop(self) -> None:
        for agent in self._agents:
            await agent.stop()
        await self._services.stop()

    def told(self) -> Told:
        agents = self._agents
        return Told(
            nodes=tuple(agent.node for agent in agents),
            standing=sum(agent.fabric.connected for agent in agents),
            since=tuple(agent.standing_since for agent in agents),
            lost=sum(agent.lost for agent in agents),
            held=sum(agent.holds for agent in agents),
        )

    def _enrol(self, name: str) -> tuple[str, Identity, Credentials]:
        """Over HTTP, with the join token, as every agent does; in a thread."""
        server: Connection | None = getattr(self._http, "server", None)
        if server is None:
            server = self._http.server = Connection(self._task.url, "")
        key = Identity(NKey.create(Kind.USER))
        request = Enrolment(
            public_key=key.public_key,
            name=name,
            signature=key.sign(signed_part(key.public_key, name, self._task.token)),
            token=self._task.token,
            via="127.0.0.1",
        )
        given = server.post("/v1/enrol", msgspec.to_builtins(request))
        return name, key, msgspec.convert(given, Credentials)


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def _say(told: Told) -> None:
    sys.stdout.buffer.write(base64.b64encode(encode(told)) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    gc.set_threshold(50_000, 20, 50)  # of thousands of agents in one process, as no node has them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: our input ends with the script
    lines = await _lines()
    process = Process(msgspec.json.decode(await lines.readline(), type=Task))
    ended = asyncio.ensure_future(lines.readline())
    starting = asyncio.ensure_future(process.start())
    await asyncio.wait([ended, starting], return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting
        _say(process.told())
        while await ended:
            _say(process.told())
            ended = asyncio.ensure_future(lines.readline())
    # all that these agents hold goes with the process: nobody needs a farewell of each
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
