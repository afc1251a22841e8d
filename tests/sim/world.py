"""A fleet in one process: real servers and agents on a simulated fabric, store and machines.

Everything that decides is the code that production runs: `control.main.Server` with all its loops,
`agent.main.Agent` with all its loops, the links of fabric/nats. Simulated are what is below the
seams: the core of the fabric, the machine under an agent, the database under a server.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from quarterdeck.agent.main import Agent
from quarterdeck.agent.parts import Link
from quarterdeck.agent.parts import Parts as AgentParts
from quarterdeck.agent.simulated.host import SimulatedHost
from quarterdeck.agent.simulated.machine import SimulatedMachine
from quarterdeck.control.main import Server
from quarterdeck.control.parts import Parts as ServerParts
from quarterdeck.core.model import Node
from quarterdeck.fabric.identity import Identity
from quarterdeck.fabric.memory import Faults, MemoryCore, MemoryFabric
from quarterdeck.service import Clock, Services
from quarterdeck.settings import AgentSettings, ServerSettings
from quarterdeck.store import node as node_store
from quarterdeck.telemetry import Event, Telemetry, UnitDone
from tests.sim.clock import SimClock
from tests.sim.store import SharedStore, SimArchive, SimDatabase

HEARTBEAT_S = 10.0
STALE_S = 60.0
TRACE_LINES = 400
STOP_S = 30.0
ORDER_KEY = Identity.fresh()


class Violation(Exception):
    """An invariant does not hold; the sentence says which, and for what."""


class World:
    """`seed` decides everything. `violated` notes the first broken invariant."""

    def __init__(self, seed: int, *, servers: int, nodes: int, work: Path) -> None:
        self.clock = SimClock()
        self.random = random.Random(seed)
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.digest = hashlib.blake2b(digest_size=6)
        self.violation: str | None = None
        self.events: dict[str, int] = {}
        self.store = SharedStore()
        self.core = MemoryCore(
            random.Random(seed + 1).random,
            faults=Faults(latency_s=0.001, jitter_s=0.004),
            stale_s=STALE_S,
        )
        self.machines = {
            name: SimulatedMachine(name, self.clock)
            for name in (f"n{number:03}" for number in range(nodes))
        }
        self.nodes = {name: NodeProcess(self, machine) for name, machine in self.machines.items()}
        self.servers = {
            name: ServerProcess(self, name, work / name)
            for name in (f"s{number}" for number in range(1, servers + 1))
        }
        self.cache_damaged = False  # then viewers may see it, and logs are read again
        self.undo: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.listeners: list[Callable[[str, Event], None]] = []

    def note(self, text: str) -> None:
        line = f"{self.clock.monotonic():9.3f} {text}"
        self.trace.append(line)
        self.digest.update(line.encode())

    def violated(self, sentence: str) -> None:
        """The first one counts; those after it may come from it."""
        self.note(f"VIOLATED: {sentence}")
        if self.violation is None:
            self.violation = sentence

    def check(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.violated(sentence)

    def telemetry(self, who: str) -> Telemetry:
        """Events of one process become lines of the trace, and are counted."""

        def heard(event: Event) -> None:
            if isinstance(event, UnitDone):
                return
            name = type(event).__name__
            self.events[name] = self.events.get(name, 0) + 1
            self.note(f"{who} {name} {msgspec.to_builtins(event)}")
            for listener in self.listeners:
                listener(who, event)

        telemetry = Telemetry()
        telemetry.subscribe(heard)
        return telemetry

    def task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Something that goes on beside; ended by `stop`."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def live_servers(self) -> list[Server]:
        return [p.server for p in self.servers.values() if p.server is not None and p.ready]

    async def start(self) -> None:
        """All servers and agents, with nodes that are enrolled already."""
        now = self.clock.now()
        for name in self.nodes:
            node = Node(id=name, name=name, public_key=f"key of {name}", created_at=now)
            self.store.run(partial(node_store.enrol, node=node))
        for server in self.servers.values():
            server.start()
        for node_process in self.nodes.values():
            node_process.start()

    async def stop(self) -> None:
        """End everything, ready or not."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self.nodes.values():
            await node.crash()
        for server in self.servers.values():
            await server.crash()
        for machine in self.machines.values():
            machine.reboot()
        self.core.crash()
        for each in self.undo:
            each()
        self.store.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.violated(f"{task.get_name()} failed with {error!r}")


class NodeProcess:
    """The agent of one machine: started, stopped, killed."""

    def __init__(self, world: World, machine: SimulatedMachine) -> None:
        self.machine = machine
        self.running = False
        self._world = world
        self._agent: Agent | None = None
        self._host: SimulatedHost | None = None
        self._fabric: MemoryFabric | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.running:
            return
        self.running = True
        telemetry = self._world.telemetry(self.machine.name)
        settings = AgentSettings(
            state=self.machine.name, name=self.machine.name, heartbeat_s=HEARTBEAT_S
        )
        self._agent = Agent(
            settings, telemetry=telemetry, clock=self._world.clock, opened=self._opened
        )
        self._starting = self._world.task(self._agent.start(), f"start of {self.machine.name}")

    async def stop(self) -> None:
        """A clean stop."""
        agent = await self._let_go()
        if agent is not None:
            await agent.stop()

    async def crash(self) -> None:
        """kill -9: from here on it has no effect; its tasks are then ended at leisure."""
        if self._host is not None:
            self._host.process.die()
        if self._fabric is not None:
            self._fabric.crash()
        await self.stop()

    async def _let_go(self) -> Agent | None:
        starting, self._starting = self._starting, None
        agent, self._agent = self._agent, None
        self._host = self._fabric = None
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        self.running = False
        return agent

    def _opened(
        self, _settings: AgentSettings, services: Services, _telemetry: Telemetry, _clock: Clock
    ) -> AgentParts:
        host = self._host = SimulatedHost(self.machine)
        name = self.machine.name

        async def join() -> Link:
            self._fabric = MemoryFabric(self._world.core, name, "node", spawn=services.spawn)
            return Link(
                node=name,
                fabric=self._fabric,
                order_keys=lambda: (ORDER_KEY.public_key,),
                refresh=nothing,
                renew=nothing,
                begin=self.machine.begin,
            )

        return AgentParts(host=host, join=join)


class ServerProcess:
    """One server: started, stopped, killed, stalled."""

    def __init__(self, world: World, name: str, work: Path) -> None:
        self.name = name
        self.server: Server | None = None
        self.database: SimDatabase | None = None
        self.ready = False
        self._world = world
        self._work = work
        self._fabric: MemoryFabric | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.server is not None:
            return
        self._work.mkdir(parents=True, exist_ok=True)
        self.server = Server(
            ServerSettings(data=str(self._work), min_free_mib=0),
            telemetry=self._world.telemetry(self.name),
            clock=self._world.clock,
            opened=self._opened,
        )
        self._starting = self._world.task(self._start(self.server), f"start of {self.name}")

    async def stop(self) -> None:
        """A clean stop."""
        server = await self._leave()
        if server is not None:
            await server.stop()

    async def crash(self) -> None:
        """kill -9: nothing of it is committed or sent any more."""
        if self.database is not None:
            self.database.dead = True
            self.database.go_on()
        if self._fabric is not None:
            self._fabric.crash()
        server = await self._leave()
        if server is not None:
            await server.services.stop()  # of what a stop does nothing else: it gives nothing back

    async def _leave(self) -> Server | None:
        """What ran here, which is no server of the world any more."""
        self.ready = False
        server, self.server = self.server, None
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        return server

    async def _start(self, server: Server) -> None:
        await server.start()
        self.ready = True

    def _opened(
        self, _settings: ServerSettings, services: Services, _telemetry: Telemetry, _clock: Clock
    ) -> ServerParts:
        self._fabric = MemoryFabric(self._world.core, self.name, "server", spawn=services.spawn)
        self.database = SimDatabase(self._world.store)
        return ServerParts(
            id=self.name,
            database=self.database,
            fabric=self._fabric,
            archive=SimArchive(self._world.store, self._work / "work"),
            mint=lambda node, key, now, ttl_s: "",
            sign=ORDER_KEY.sign,
            order_keys=(ORDER_KEY.public_key,),
            fabric_urls=("memory",),
        )


async def nothing() -> None:
    """For what a simulated node needs no pass for."""
