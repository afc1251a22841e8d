"""Short plans that lead straight to the one moment at which a rule matters.

Each is quiet in the real code; a mutation that random faults meet too seldom is met here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from quarterdeck.control.dispatch import Dispatch
from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Order
from quarterdeck.fabric.memory import Chance
from quarterdeck.wire import subjects
from quarterdeck.wire.run import ReportAttempt
from tests.sim.clock import pause
from tests.sim.world import World

Script = Callable[[World], Coroutine[Any, Any, None]]


async def create(world: World, argv: str, *, grace_s: float = 1.0) -> str:
    """A run on all nodes; its id."""
    (server, *_) = world.live_servers()
    order = Order(argv=tuple(argv.split()), grace_s=grace_s)
    run = await server.runs.create(NewRun(target="all", order=order, created_by="sim"))
    return run.id


async def cancel(world: World, run: str) -> None:
    (server, *_) = world.live_servers()
    await server.runs.cancel(run)


async def calm(world: World) -> None:
    """S11: facts that are late by less than a beat make nobody ask a node for its journal."""
    asked: list[str] = []
    real = Dispatch._ask_and_apply

    async def spy(self: Any, node: str, batch: Any, offered: Any) -> bool:
        asked.extend(item.attempt for item in batch if isinstance(item, ReportAttempt))
        return await real(self, node, batch, offered)

    world.core.faults.stores = Chance(delayed=1.0, delay_s=6.0)
    world.undo.append(lambda: setattr(Dispatch, "_ask_and_apply", real))
    Dispatch._ask_and_apply = spy  # type: ignore[method-assign]
    for _ in range(3):
        await create(world, "sim ticks=1 every=25")
        await pause(7)
    await pause(60)
    world.check(not asked, f"S11: the journal of {asked[:1]} was asked after one beat.")


async def orders_come_twice_and_late(world: World) -> None:
    """An order that arrives again after its attempt was released."""
    world.core.faults.core = Chance(doubled=1.0, delay_s=60.0)
    await create(world, "sim ticks=1 every=0.1")
    await pause(70)


async def orders_come_after_they_were_called_off(world: World) -> None:
    """An order that arrives after its attempt was revoked."""
    world.core.faults.core = Chance(delayed=1.0, delay_s=60.0)
    run = await create(world, "sim ticks=1 every=0.1")
    await pause(1)
    world.core.faults.core = Chance()
    await cancel(world, run)
    await pause(65)


async def orders_outlive_the_agent_they_were_for(world: World) -> None:
    """Called off on a full disk, so only the session that is over remembers it."""
    world.core.faults.core = Chance(delayed=1.0, delay_s=60.0)
    run = await create(world, "sim ticks=1 every=0.1")
    await pause(1)
    world.core.faults.core = Chance()
    for machine in world.machines.values():
        machine.full = True
    await cancel(world, run)
    await pause(15)
    for node in world.nodes.values():
        await node.crash()
        node.machine.full = False
        node.start()
    await pause(60)


async def answers_are_lost(world: World) -> None:
    """Orders arrive, half of the answers and facts do not; then everything is called off."""
    world.core.faults.core = Chance(lost=0.4)
    world.core.fill(subjects.EV)
    run = await create(world, "sim ticks=5 every=3")
    await pause(12)
    await cancel(world, run)
    await pause(12)
    world.core.faults.core = Chance()
    world.core.empty(subjects.EV)
    await pause(10)


async def the_cache_is_damaged(world: World) -> None:
    """A byte of the cached output is another one than the node's file has."""
    world.cache_damaged = True
    await create(world, "sim ticks=3 every=0.5 size=100")
    stream = world.core._router.jetstream.streams[subjects.OUT]
    for _ in range(40):
        await pause(0.05)
        for sequence, entry in list(stream.entries.items()):
            data = entry.data[:-1] + b"?"
            stream.entries[sequence] = entry._replace(data=data)
    await pause(10)


async def the_cache_refuses_for_a_while(world: World) -> None:
    """Output with holes in the cache: the stream is full in the middle of it."""
    for _ in range(3):
        await create(world, "sim ticks=8 every=0.5 size=400")
        await pause(1.6)
        world.core.fill(subjects.OUT)
        await pause(1.0)
        world.core.empty(subjects.OUT)
    await pause(15)


async def chunks_come_twice(world: World) -> None:
    """Output whose chunks lie doubled and out of order in the cache."""
    world.core.faults.stores = Chance(doubled=0.7, delay_s=1.0)
    for _ in range(3):
        await create(world, "sim ticks=8 every=0.3 size=400")
        await pause(3)
    await pause(15)


async def facts_are_overtaken(world: World) -> None:
    """Snapshots of one attempt that arrive again, late, and in another order."""
    world.core.faults.stores = Chance(delayed=0.6, doubled=0.6, delay_s=8.0)
    world.core.faults.acks = Chance(lost=0.3)
    for _ in range(4):
        await create(world, "sim ticks=2 every=0.5 size=40")
        await pause(4)
    await pause(20)


async def servers_offer_at_the_same_time(world: World) -> None:
    """One server's request found nobody, another's was answered by nobody but heard."""
    for _ in range(4):
        for node in list(world.nodes)[::2]:
            world.core.cut(node)
        run = await create(world, "sim ticks=40 every=0.5")
        world.core.faults.core = Chance(lost=0.5)
        for _ in range(6):
            for name in world.servers:
                live = world.servers[name].server
                if live is not None:
                    live.fleet._dispatch(*world.nodes)
            await pause(0.3)
        await cancel(world, run)
        world.core.faults.core = Chance()
        await pause(6)


DIRECTED: dict[str, Script] = {
    script.__name__: script
    for script in (
        calm,
        orders_come_twice_and_late,
        orders_come_after_they_were_called_off,
        orders_outlive_the_agent_they_were_for,
        answers_are_lost,
        the_cache_is_damaged,
        the_cache_refuses_for_a_while,
        chunks_come_twice,
        facts_are_overtaken,
        servers_offer_at_the_same_time,
    )
}
