"""What befalls the fleet: faults of every kind at random moments, each ending by itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from quarterdeck.fabric.memory import Chance
from quarterdeck.wire import subjects
from tests.sim.clock import pause
from tests.sim.world import World

FAULTS = 26
FAULTS_S = 60.0

Fault = Callable[[World], Coroutine[Any, Any, None]]
KINDS: list[Fault] = []


def fault(weight: int) -> Callable[[Fault], Fault]:
    """A fault that is chosen `weight` times as often as the rarest."""

    def add(function: Fault) -> Fault:
        KINDS.extend([function] * weight)
        return function

    return add


async def befall(world: World) -> None:
    """Faults for `FAULTS_S`."""
    world.task(noise(world), "noise")
    for number in range(FAULTS):
        chosen = world.random.choice(KINDS)
        world.task(chosen(world), f"fault {number} {chosen.__name__}")
        await pause(world.random.uniform(0, 2 * FAULTS_S / FAULTS))


def some_node(world: World) -> str:
    """One that has something to lose, if there is any."""
    machines = world.machines
    busy = [name for name, machine in machines.items() if machine.directories]
    return world.random.choice(busy or sorted(machines))


def some_server(world: World) -> str:
    return world.random.choice(sorted(world.servers))


def some_time(world: World, low: float, high: float) -> float:
    return world.random.uniform(low, high)


async def noise(world: World) -> None:
    faults, random = world.core.faults, world.random
    while True:
        chances = [
            Chance(
                lost=random.choice((0.0, 0.05, 0.2)),
                doubled=random.choice((0.0, 0.1, 0.3)),
                delayed=random.choice((0.0, 0.1, 0.3)),
                delay_s=random.choice((0.5, 4.0, 15.0)),
            )
            for _ in range(3)
        ]
        faults.core, faults.stores, faults.acks = chances
        try:
            await pause(some_time(world, 3, 15))
        finally:
            faults.core, faults.stores, faults.acks = Chance(), Chance(), Chance()


@fault(4)
async def partition_node(world: World) -> None:
    await cut_off(world, [some_node(world) for _ in range(world.random.randint(1, 4))])


@fault(2)
async def partition_server(world: World) -> None:
    await cut_off(world, [some_server(world)])


async def cut_off(world: World, who: list[str]) -> None:
    core = world.core
    world.note(f"FAULT partition {who}")
    for name in who:
        core.partition(name)
    await pause(some_time(world, 1, 40))
    world.note(f"FAULT heal {who}")
    for name in who:
        core.heal(name)


@fault(2)
async def cut(world: World) -> None:
    who = world.random.choice([some_node(world), some_server(world)])
    world.note(f"FAULT cut {who}")
    world.core.cut(who)


@fault(1)
async def core_crash(world: World) -> None:
    world.note("FAULT core crash")
    world.core.crash()
    await pause(some_time(world, 0.5, 10))
    world.core.restart()


@fault(2)
async def full_stream(world: World) -> None:
    stream = world.random.choice((subjects.EV, subjects.OUT))
    world.note(f"FAULT full {stream}")
    world.core.fill(stream)
    await pause(some_time(world, 1, 20))
    world.core.empty(stream)


@fault(5)
async def agent_crash(world: World) -> None:
    name = some_node(world)
    world.note(f"FAULT agent crash {name}")
    await world.nodes[name].crash()
    await pause(some_time(world, 0, 15))
    world.nodes[name].start()


@fault(1)
async def agent_restart(world: World) -> None:
    name = some_node(world)
    world.note(f"FAULT agent restart {name}")
    await world.nodes[name].stop()
    await pause(some_time(world, 0, 5))
    world.nodes[name].start()


@fault(4)
async def shim_kill(world: World) -> None:
    name = some_node(world)
    machine = world.machines[name]
    if machine.shims:
        attempt = world.random.choice(sorted(machine.shims))
        world.note(f"FAULT shim kill {attempt}")
        machine.kill_shim(attempt)


@fault(2)
async def reboot(world: World) -> None:
    name = some_node(world)
    world.note(f"FAULT reboot {name}")
    await world.nodes[name].crash()
    world.machines[name].reboot()
    await pause(some_time(world, 1, 20))
    world.nodes[name].start()


@fault(2)
async def disk_full(world: World) -> None:
    machine = world.machines[some_node(world)]
    world.note(f"FAULT disk full {machine.name}")
    machine.full = True
    await pause(some_time(world, 1, 20))
    machine.full = False


@fault(1)
async def no_forks(world: World) -> None:
    machine = world.machines[some_node(world)]
    world.note(f"FAULT no forks {machine.name}")
    machine.no_forks = True
    await pause(some_time(world, 1, 8))
    machine.no_forks = False


@fault(3)
async def server_crash(world: World) -> None:
    name = some_server(world)
    world.note(f"FAULT server crash {name}")
    await world.servers[name].crash()
    await pause(some_time(world, 0.5, 20))
    world.servers[name].start()


@fault(1)
async def server_restart(world: World) -> None:
    name = some_server(world)
    world.note(f"FAULT server restart {name}")
    await world.servers[name].stop()
    await pause(some_time(world, 0.5, 5))
    world.servers[name].start()


@fault(1)
async def database_away(world: World) -> None:
    database = world.servers[some_server(world)].database
    if database is not None:
        world.note("FAULT database away")
        database.away = True
        await pause(some_time(world, 1, 8))
        database.away = False


@fault(1)
async def server_stall(world: World) -> None:
    database = world.servers[some_server(world)].database
    if database is not None:
        world.note("FAULT server stall")
        database.stall()
        await pause(some_time(world, 5, 30))
        database.go_on()
