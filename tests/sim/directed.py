"""Short plans that lead straight to the one moment at which a rule matters.

Each is quiet in the real code; a mutation that random faults meet too seldom is met here.
"""

from __future__ import annotations

import contextlib
from typing import Any

from quarterdeck.agent.simulated import host as simulated
from quarterdeck.control.dispatch import Dispatch
from quarterdeck.control.requests import WantedSignal
from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Amount, Order, Plan, Retry
from quarterdeck.errors import Conflict
from quarterdeck.fabric.memory import Chance
from quarterdeck.wire import subjects
from quarterdeck.wire.run import ReportAttempt
from tests.sim.clock import pause
from tests.sim.sessions import (
    a_first_beat_is_late_for_a_server_that_came_up,
    a_start_is_heard_after_the_next_one,
    beats_come_late,
)
from tests.sim.steps import Script, attempts_of, cancel, create, restart_agents, until
from tests.sim.world import World


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


async def cancelled_twice(world: World) -> None:
    """S12: the second cancel kills at once what has a long grace."""
    run = await create(world, "sim ticks=100000 every=1 stubborn", grace_s=1000.0)
    await pause(4)
    for _ in range(2):
        await cancel(world, run)
        await pause(8)
    truths = [truth for machine in world.machines.values() for truth in machine.truth.values()]
    alive = sum(not truth.exited for truth in truths)
    world.check(not alive, f"S12: {alive} processes live on after the second cancel.")


async def signalled_while_answers_are_lost(world: World) -> None:
    """S15: each signal reaches its process once, however often it is asked for and sent."""
    world.core.faults.core = Chance(lost=0.3, doubled=0.5, delay_s=1.0)
    run = await create(world, "sim ticks=60 every=0.5 size=40")
    await pause(8)
    (server, *_) = world.live_servers()
    for key in ("first", "second"):
        for _ in range(2):
            with contextlib.suppress(Conflict):
                wanted = WantedSignal(signal=1, key=key)
                await server.requests.signal(run, wanted)
            await pause(3)
    await pause(40)
    received = [truth.signals for m in world.machines.values() for truth in m.truth.values()]
    wrong = [each for each in received if each != sorted(set(each)) or len(each) > 2]
    world.check(not wrong, f"S15: the signals {wrong[:1]} were sent, 1 and 2 were asked for.")
    world.check(any(received), "S15: no signal reached any process.")


async def the_fabric_forgets(world: World) -> None:
    """Facts that were taken are gone before any server has read them."""
    await create(world, "sim ticks=2 every=2 size=40")
    await pause(1)
    for server in world.servers.values():
        await server.stop()
    await pause(10)
    stream = world.core._router.jetstream.streams[subjects.EV]
    stream.entries.clear()
    stream._by_subject.clear()
    for server in world.servers.values():
        server.start()
    await pause(30)


async def facts_come_all_at_once(world: World) -> None:
    """All tasks of a run end while no server listens."""
    await create(world, "sim ticks=2 every=1 size=40")
    await pause(1)
    for server in world.servers.values():
        await server.stop()
    await pause(10)
    for server in world.servers.values():
        server.start()
    await pause(10)


async def tasks_follow_one_another(world: World) -> None:
    """Few at once, each tried three times, and stopped after the second that failed for good."""
    (server, *_) = world.live_servers()
    plan = Plan(
        max_parallel=Amount(count=3),
        max_failures=Amount(count=1),
        retry=Retry(attempts=3, delay_s=4.0, factor=1.0),
    )
    order = Order(argv=("sim", "ticks=2", "every=0.3", "exit=1"))
    new = NewRun(target="all", order=order, created_by="sim", plan=plan)
    run = (await server.runs.create(new)).id
    await pause(40)
    tries = [attempt.number for attempt in attempts_of(world, run)]
    world.check(tries.count(3) >= 2, f"S16: of the tries {tries} no two were the third.")


async def live_chunks_are_lost(world: World) -> None:
    """Viewers hear some chunks never, some twice, and some late."""
    world.core.faults.core = Chance(lost=0.2, doubled=0.4, delayed=0.2, delay_s=1.0)
    for _ in range(2):
        await create(world, "sim ticks=10 every=0.3 size=200")
        await pause(5)
    await pause(10)


async def a_withdrawal_comes_late(world: World) -> None:
    """One server's offer found nobody; before it takes that back, another's was heard."""
    first, *others = world.servers.values()
    for node in world.nodes.values():
        await node.crash()
    world.core.fill(subjects.EV)
    run = await create(world, "sim ticks=40 every=0.5")
    await until(world, lambda: any(a.offered for a in attempts_of(world, run)))
    assert first.database is not None
    first.database.stall()
    await pause(0.1)  # its requests find nobody
    late = {attempt.id for attempt in attempts_of(world, run) if attempt.offered}
    for node in world.nodes.values():
        node.start()
    await until(world, lambda: any(late & m.directories.keys() for m in world.machines.values()))
    for other in others:
        world.core.partition(other.name)
    first.database.go_on()
    await pause(0.5)
    await cancel(world, run)
    await pause(3)
    for other in others:
        world.core.heal(other.name)
    world.core.empty(subjects.EV)
    await pause(15)


async def disks_are_slow_when_agents_die(world: World) -> None:
    """Killed as soon as the first of them is known to have accepted."""
    before = simulated.WRITE_S
    world.undo.append(lambda: setattr(simulated, "WRITE_S", before))
    simulated.WRITE_S = 0.4
    run = await create(world, "sim ticks=2 every=0.2 size=40")
    await until(world, lambda: any(a.snapshot for a in attempts_of(world, run)))
    await restart_agents(world)
    await pause(40)


async def the_power_fails_after_the_release(world: World) -> None:
    """Directories and tombstones as they were before the last write-back."""
    await create(world, "sim ticks=2 every=0.2 size=40")
    await pause(0.5)
    await until(world, lambda: not any(m.directories for m in world.machines.values()))
    for node in world.nodes.values():
        await node.crash()
        node.machine.reboot()
    back = [attempt for m in world.machines.values() for attempt in m.directories]
    world.note(f"back are {back}")
    for node in world.nodes.values():
        node.start()
    await pause(30)


async def the_power_fails_after_a_lost_end(world: World) -> None:
    """An end that was declared for a killed shim claims no output that a power cut takes away."""
    world.core.fill(subjects.OUT)
    await create(world, "sim ticks=100000 every=0.1 size=40")
    await until(world, lambda: any(m.shims for m in world.machines.values()))
    await pause(4)
    for machine in world.machines.values():
        for attempt in list(machine.shims):
            machine.kill_shim(attempt)
    directories = [d for m in world.machines.values() for d in m.directories.values()]
    await until(world, lambda: all(d.end is not None for d in directories))
    for node in world.nodes.values():
        await node.crash()
        node.machine.reboot()
        node.start()
    world.core.empty(subjects.OUT)
    await pause(30)


DIRECTED: dict[str, Script] = {
    script.__name__: script
    for script in (
        calm,
        cancelled_twice,
        signalled_while_answers_are_lost,
        the_power_fails_after_the_release,
        the_power_fails_after_a_lost_end,
        the_fabric_forgets,
        orders_come_twice_and_late,
        orders_come_after_they_were_called_off,
        orders_outlive_the_agent_they_were_for,
        answers_are_lost,
        the_cache_is_damaged,
        the_cache_refuses_for_a_while,
        chunks_come_twice,
        facts_are_overtaken,
        facts_come_all_at_once,
        tasks_follow_one_another,
        live_chunks_are_lost,
        a_withdrawal_comes_late,
        beats_come_late,
        a_start_is_heard_after_the_next_one,
        a_first_beat_is_late_for_a_server_that_came_up,
        disks_are_slow_when_agents_die,
    )
}
