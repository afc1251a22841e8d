"""Picks on a real server and fabric, with nodes whose beats and ends the test writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from quarterdeck.control.again import Retry as Again
from quarterdeck.control.again import retry as again
from quarterdeck.control.changes import end_topic, run_topic
from quarterdeck.control.main import Server
from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Amount, Order, Pick, PickBy, Plan, Retry, Task
from quarterdeck.core.states import Outcome, RunState, TaskState
from quarterdeck.errors import Invalid
from quarterdeck.telemetry import NodeSession
from quarterdeck.wire import subjects
from quarterdeck.wire.run import (
    AttemptSnapshot,
    FactsMessage,
    LoadMessage,
    Orders,
    StartAttempt,
)
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import HandNode, serving, snapshot

LOADS = {"busy": 1.5, "full": 7.0, "idle": 0.1}
SLOTS = 2


class LoadedNode(HandNode):
    """A node of a given load; `begun` gets its name and each attempt it begins."""

    begun: asyncio.Queue[tuple[str, str]]

    def beat_bytes(self, *attempts: tuple[str, int], **lies: object) -> bytes:
        figures: dict[str, object] = {
            "facts": FactsMessage(cpus=1, slots=SLOTS),
            "load": LoadMessage(load1=LOADS[self.name], cpu_percent=LOADS[self.name] * 10),
        }
        return super().beat_bytes(*attempts, **(figures | lies))

    def accept(self, orders: Orders) -> tuple[AttemptSnapshot, ...]:
        for item in orders.items:
            if isinstance(item, StartAttempt):
                self.begun.put_nowait((self.name, item.attempt))
        return tuple(snapshot(item.attempt, 1, "accepted") for item in orders.items)

    async def beat_and_wait(self) -> None:
        """A beat that a server has taken in when this returns."""
        await self.fabric.request(subjects.beat(self.id), self.beat_bytes(), timeout_s=10)

    async def end(self, attempt: str, code: int = 0) -> None:
        told = snapshot(attempt, 9, "ended", ended_at=2.0, exit_code=code, cached=True)
        await self.tell(told)


class Fleet:
    """A server and its nodes by name."""

    def __init__(self, server: Server, nodes: dict[str, LoadedNode]) -> None:
        self.server = server
        self.nodes = nodes
        self.begun: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        for node in nodes.values():
            node.begun = self.begun
            node.answer = node.accept

    async def order(self, pick: Pick, target: str = "all", **plan: object) -> str:
        new = NewRun(
            target=target,
            order=Order(argv=("true",)),
            created_by="test",
            plan=Plan(pick=pick, **plan),  # type: ignore[arg-type]
        )
        return (await self.server.runs.create(new)).id

    async def next(self) -> tuple[str, str]:
        """The name of the node that has begun something, and the attempt."""
        return await asyncio.wait_for(self.begun.get(), 20)

    async def again(self, run: str) -> str:
        return (await again(self.server.runs, run, Again(created_by="test"))).id

    async def nodes_of(self, run: str) -> set[str]:
        return {task.node_name for task in (await self.server.runs.detail(run))[1]}

    async def ended(self, run: str) -> None:
        async with asyncio.timeout(20):
            with self.server.changes.watch(end_topic(run)) as poke:
                while (await self.server.runs.get(run)).state is not RunState.ENDED:
                    await poke.wait(1.0)

    async def task(self, run: str) -> Task:
        return (await self.server.runs.detail(run))[1][0]

    async def until(self, run: str, state: TaskState) -> Task:
        async with asyncio.timeout(20):
            with self.server.changes.watch(run_topic(run)) as poke:
                while (task := await self.task(run)).state is not state:
                    await poke.wait(1.0)
        return task


@pytest.fixture
async def fleet(place: Harbour) -> AsyncIterator[Fleet]:
    async with serving(place) as (server, ears), contextlib.AsyncExitStack() as stack:
        nodes = {name: LoadedNode(place, server, name) for name in LOADS}
        for number, node in enumerate(nodes.values(), 1):
            await node.join()
            stack.push_async_callback(node.fabric.stop)
            await ears.until(NodeSession, number)
        yield Fleet(server, nodes)


async def test_tasks_begin_in_the_order_that_lists_show_their_nodes_in(fleet: Fleet) -> None:
    named = {}
    for place, name in zip((10, 9, 1), list(LOADS)[:3], strict=True):
        named[name] = f"web-{place}"
        await fleet.server.nodes.rename(name, named[name], by="test")
    new = NewRun(target="web-*", order=Order(argv=("true",)), created_by="test")
    run = (await fleet.server.runs.create(new)).id
    tasks = (await fleet.server.runs.detail(run))[1]
    order = [task.node_name for task in sorted(tasks, key=lambda task: task.position)]
    assert order == ["web-1", "web-9", "web-10"]


async def test_the_least_loaded_node_is_picked_and_the_reason_is_recorded(fleet: Fleet) -> None:
    run = await fleet.order(Pick(count=1))
    assert (await fleet.next())[0] == "idle"
    task = await fleet.task(run)
    assert task.node_name == "idle"
    assert task.reason.startswith("load 0.10 per CPU, best of 3 fit")
    assert "busy load 1.50 per CPU: others are better" in task.reason


async def test_by_load_a_node_gets_one_task_for_each_heartbeat(fleet: Fleet) -> None:
    names = []
    for _ in range(3):
        await fleet.order(Pick(count=1))
        names.append((await fleet.next())[0])
    assert names == ["idle", "busy", "full"]
    await fleet.order(Pick(count=1))
    await fleet.nodes["full"].beat_and_wait()
    assert (await fleet.next())[0] == "full"


async def test_a_pick_takes_distinct_nodes_and_what_finds_no_slot_waits_for_one(
    fleet: Fleet,
) -> None:
    pick = Pick(count=3, by=PickBy.FEWEST_TASKS)
    begun = []
    for _ in range(SLOTS):
        await fleet.order(pick)
        begun += [await fleet.next() for _ in LOADS]
    assert Counter(name for name, _ in begun) == dict.fromkeys(LOADS, SLOTS)
    late = await fleet.order(Pick(count=1, by=PickBy.FEWEST_TASKS), offline_ttl_s=0.0)
    assert (await fleet.until(late, TaskState.QUEUED)).node == ""
    name, attempt = begun[0]
    await fleet.nodes[name].end(attempt)
    assert await fleet.next() == (name, f"{late}-0-1")


async def test_a_pick_of_more_nodes_than_the_target_hits_is_refused(fleet: Fleet) -> None:
    with pytest.raises(Invalid, match=r"4 nodes are to be picked, but it hits only 3"):
        await fleet.order(Pick(count=4))


async def test_a_pick_by_a_label_that_too_few_nodes_have_is_refused(fleet: Fleet) -> None:
    with pytest.raises(Invalid, match=r"only 0 of those that the target hits have a number"):
        await fleet.order(Pick(count=1, by=PickBy.LABEL, label="prio"))


async def test_a_task_that_waits_for_a_node_can_be_cancelled(fleet: Fleet) -> None:
    run = await fleet.order(Pick(count=1, max_cpu=0.5))
    assert (await fleet.until(run, TaskState.QUEUED)).node == ""
    await fleet.server.runs.cancel(run)
    task = await fleet.until(run, TaskState.ENDED)
    assert task.outcome is Outcome.SKIPPED


async def test_a_task_with_no_node_there_ends_after_its_time_to_live(fleet: Fleet) -> None:
    node = fleet.nodes["idle"]
    await node.fabric.request(
        subjects.beat(node.id), node.beat_bytes(full="its disk is full"), timeout_s=10
    )
    run = await fleet.order(Pick(count=1), target="idle", offline_ttl_s=0.0)
    fleet.server.steady._since -= 60.0  # a minute goes by
    task = await fleet.until(run, TaskState.ENDED)
    assert task.outcome is Outcome.FAILED and task.node == ""


async def test_a_failed_pick_is_tried_elsewhere(fleet: Fleet) -> None:
    retry = Retry(attempts=3, delay_s=0.0, elsewhere=True)
    pick = Pick(count=1, by=PickBy.FEWEST_TASKS)
    run = await fleet.order(pick, retry=retry)
    names = []
    for _ in range(3):
        name, attempt = await fleet.next()
        names.append(name)
        await fleet.nodes[name].end(attempt, code=1)
    assert sorted(names) == sorted(LOADS), "a try goes where none was before"
    assert (await fleet.until(run, TaskState.ENDED)).outcome is Outcome.FAILED


async def test_a_pick_that_no_node_is_left_for_ends_after_its_time_to_live(fleet: Fleet) -> None:
    pick = Pick(count=3, by=PickBy.FEWEST_TASKS)
    node = fleet.nodes["idle"]
    await node.fabric.request(
        subjects.beat(node.id), node.beat_bytes(full="its disk is full"), timeout_s=10
    )
    run = await fleet.order(pick, offline_ttl_s=0.0)
    for _ in range(2):
        name, attempt = await fleet.next()
        await fleet.nodes[name].end(attempt)
    fleet.server.steady._since -= 60.0  # a minute goes by
    async with asyncio.timeout(20):
        while (await fleet.server.runs.get(run)).outcome is None:
            with fleet.server.changes.watch(run_topic(run)) as poke:
                await poke.wait(0.5)
    detail, tasks, _ = await fleet.server.runs.detail(run)
    assert detail.outcome is Outcome.FAILED
    assert sorted(str(task.outcome) for task in tasks) == ["failed", "succeeded", "succeeded"]


async def test_a_retry_of_a_pick_goes_to_the_nodes_that_failed_and_to_no_other(
    fleet: Fleet,
) -> None:
    run = await fleet.order(Pick(count=2, by=PickBy.FEWEST_TASKS))
    (good, one), (bad, two) = await fleet.next(), await fleet.next()
    await fleet.nodes[good].end(one)
    await fleet.nodes[bad].end(two, code=1)
    await fleet.ended(run)
    later = await fleet.again(run)
    assert await fleet.nodes_of(later) == {bad}
    assert await fleet.next() == (bad, f"{later}-0-1")
    assert fleet.begun.empty()


async def test_a_retry_places_what_never_got_a_node_beside_the_nodes_that_failed(
    fleet: Fleet,
) -> None:
    both = Pick(count=2, by=PickBy.FEWEST_TASKS)
    run = await fleet.order(both, max_parallel=Amount(count=1), max_failures=Amount(count=0))
    name, attempt = await fleet.next()
    await fleet.nodes[name].end(attempt, code=1)
    await fleet.ended(run)
    assert await fleet.nodes_of(run) == {name, ""}
    later = await fleet.again(run)
    assert await fleet.next() == (name, f"{later}-0-1")
    await fleet.nodes[name].end(f"{later}-0-1")
    other, placed = await fleet.next()
    assert placed == f"{later}-1-1" and other != name
    await fleet.nodes[other].end(placed)
    await fleet.ended(later)
    assert (await fleet.server.runs.get(later)).outcome is Outcome.SUCCEEDED
