"""What the short plans of the simulation are made of."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Attempt, Order
from quarterdeck.store import run as run_store
from tests.sim.clock import pause
from tests.sim.world import World

MOMENT_S = 60.0
LOOK_S = 0.001

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


async def until(world: World, condition: Callable[[], bool]) -> None:
    """Wait for a moment of a plan; one that never comes is a fault of the plan."""
    end = world.clock.monotonic() + MOMENT_S
    while not condition():
        if world.clock.monotonic() > end:
            world.violated("The moment of this plan never came.")
            return
        await pause(LOOK_S)


def attempts_of(world: World, run: str) -> list[Attempt]:
    return world.store.look(lambda tx: run_store.attempts_of(tx, run))


async def restart_agents(world: World) -> None:
    """Every agent dies and is started again at once."""
    for node in world.nodes.values():
        await node.crash()
        node.start()
