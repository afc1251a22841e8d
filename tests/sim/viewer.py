"""Somebody who watches a whole run, on whichever server lives, and checks every byte."""

from __future__ import annotations

import asyncio

from quarterdeck.control.main import Server
from quarterdeck.control.watch import Cursor, OutputSeen, RunEndSeen, TaskSeen
from quarterdeck.core.model import STREAMS
from quarterdeck.core.states import TaskState
from quarterdeck.errors import QuarterdeckError
from tests.sim.clock import pause
from tests.sim.world import World

AGAIN_S = 1.0


class Viewer:
    """Holds a cursor, as a browser does; goes on with it after each broken connection."""

    def __init__(self, world: World, run: str) -> None:
        self._world = world
        self._run = run
        self._cursor = Cursor()
        self._reached: dict[tuple[str, str], int] = {}
        self.finished = False

    async def look(self) -> None:
        """Until the run's end was told."""
        while not self.finished:
            servers = self._world.live_servers()
            if servers:
                server = servers[int(self._world.random.random() * len(servers))]
                looking = self._world.task(self._watch(server), f"viewer of {self._run}")
                gone = self._world.task(_until_gone(self._world, server), "viewer's connection")
                await asyncio.wait([looking, gone], return_when=asyncio.FIRST_COMPLETED)
                for task in (looking, gone):
                    task.cancel()
                await asyncio.gather(looking, gone, return_exceptions=True)
            if not self.finished:
                await pause(AGAIN_S)

    async def _watch(self, server: Server) -> None:
        try:
            async for seen in server.watching.watch(self._run, self._cursor):
                match seen:
                    case OutputSeen(attempt=attempt, chunk=chunk):
                        self._output(attempt, chunk.stream, chunk.offset, chunk.data)
                    case TaskSeen(task=task, attempt=attempt) if task.state is TaskState.ENDED:
                        if attempt is not None and attempt.node:  # else it never began
                            self._task(attempt.node, attempt.id)
                    case RunEndSeen():
                        self.finished = True
        except QuarterdeckError as error:
            self._world.note(f"viewer of {self._run}: {error.message}")

    def _output(self, attempt: str, stream: str, offset: int, data: bytes) -> None:
        reached = self._reached.get((attempt, stream), 0)
        self._world.check(
            offset == reached,
            f"V1: the viewer of {attempt} {stream} was at byte {reached} and was told {offset}.",
        )
        tried_on = [m for m in self._world.machines.values() if attempt in m.truth]
        wrote = tried_on[0].truth_of(attempt).written[stream]
        self._world.check(
            wrote[offset : offset + len(data)] == data,
            f"V2: the viewer of {attempt} {stream} was told other bytes from {offset} on.",
        )
        self._reached[attempt, stream] = offset + len(data)

    def _task(self, node: str, attempt: str) -> None:
        truth = self._world.machines[node].truth_of(attempt)
        for stream in STREAMS:
            reached = self._reached.get((attempt, stream), 0)
            self._world.check(
                truth.shim_killed or reached == len(truth.written[stream]),
                f"V3: the viewer of {attempt} was told its end at byte {reached} of "
                f"{len(truth.written[stream])} of {stream}.",
            )


async def _until_gone(world: World, server: Server) -> None:
    while server in world.live_servers():
        await pause(AGAIN_S)
