"""Short plans in which agents are heard in another order than they were started in."""

from __future__ import annotations

from quarterdeck.core.states import Outcome
from quarterdeck.fabric.memory import Chance
from tests.sim.clock import pause
from tests.sim.steps import attempts_of, create, restart_agents
from tests.sim.world import World


async def beats_come_late(world: World) -> None:
    """S13: a beat of an agent that was restarted arrives after the first of its next session."""
    world.core.faults.core = Chance(doubled=1.0, delay_s=20.0)
    await pause(11)
    await restart_agents(world)
    await pause(20)
    world.core.faults.core = Chance()
    await pause(80)
    await _all_take_orders(world)


async def a_start_is_heard_after_the_next_one(world: World) -> None:
    """S13: an agent died right after its start, and its only beats come after those of the next."""
    await pause(11)
    world.core.faults.core = Chance(delayed=1.0, delay_s=30.0)
    await restart_agents(world)
    await pause(1)
    for node in world.nodes.values():
        await node.crash()
    world.core.faults.core = Chance()
    for node in world.nodes.values():
        node.start()
    await pause(100)
    await _all_take_orders(world)


async def a_first_beat_is_late_for_a_server_that_came_up(world: World) -> None:
    """S13: no server remembers which sessions were replaced, and the first one of a directory is
    heard after the one that followed it. It names none before it."""
    world.core.faults.core = Chance(doubled=1.0, delay_s=20.0)
    await pause(11)
    await restart_agents(world)
    await pause(6)  # then the record has the second session
    for server in world.servers.values():
        await server.stop()
        server.start()
    await pause(1)
    world.core.faults.core = Chance()
    await pause(100)
    await _all_take_orders(world)


async def _all_take_orders(world: World) -> None:
    run = await create(world, "sim ticks=2 every=0.2 size=40")
    await pause(5)
    for attempt in attempts_of(world, run):
        world.check(
            attempt.outcome is Outcome.SUCCEEDED,
            f"S13: {attempt.node} takes no orders, long after a late beat of an ended session.",
        )
