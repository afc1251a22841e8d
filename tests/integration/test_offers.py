"""Offers run out by one clock that does not step."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import msgspec

from quarterdeck.control.main import Server
from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Facts, Order, Plan
from quarterdeck.core.place import slots_of
from quarterdeck.core.states import AttemptState, TaskState
from quarterdeck.service import SystemClock
from quarterdeck.telemetry import NodeSession
from quarterdeck.wire.run import StartAttempt
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import Ears, HandNode, accepting, serving, snapshot


class SetClock(SystemClock):
    """A clock that an operator sets."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


async def test_a_clock_that_is_set_an_hour_ahead_ends_no_offer(place: Harbour) -> None:
    clock = SetClock()
    async with serving(place, clock=clock) as (server, ears):
        node = HandNode(place, server, "hand")
        await node.join()
        await ears.until(NodeSession)
        await node.fabric.stop()
        clock.ahead = timedelta(hours=-1)
        runs = [await server.runs.create(_new(ttl_s)) for ttl_s in (1800.0, 0.0)]
        clock.ahead = timedelta(hours=1)
        expire = partial(server._dispatch._expire, here=set(), why={})
        found = await server.database.read(expire)
        assert found == [], "one may wait for half an hour, the other for a moment"
        clock.ahead = timedelta()
        server.steady._since -= 60.0  # a minute goes by
        await server._ingest.change(expire)
        states = [(await server.runs.detail(run.id))[2][0].state for run in runs]
        assert states == [AttemptState.PENDING, AttemptState.ENDED]


def _new(ttl_s: float) -> NewRun:
    plan = Plan(offline_ttl_s=ttl_s)
    return NewRun(target="hand", order=Order(argv=("true",)), created_by="test", plan=plan)


async def test_a_node_that_drains_is_waited_for_as_long_as_was_said(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, _ears, _node = fleet
    waits = []
    for draining in (False, True):
        await server.nodes.drain("hand", draining, by="test")
        run = await server.runs.create(_new(3.0))
        (attempt,) = (await server.runs.detail(run.id))[2]
        assert attempt.offer_until is not None
        waits.append((attempt.offer_until - server.steady.now()).total_seconds())
    assert waits[0] > 10.0 and waits[1] <= 3.0


async def test_what_waits_for_a_slot_is_sent_when_one_is_free_and_outlives_the_time_to_live(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, _ears, node = fleet
    slots = slots_of(Facts())
    node.answer = accepting
    begun = []
    for _ in range(slots):
        await server.runs.create(_new(0.0))
        begun.append(await _next_start(node))
    late = await server.runs.create(_new(0.0))
    plan = Plan(offline_ttl_s=0.0, priority=1)
    first = await server.runs.create(msgspec.structs.replace(_new(0.0), plan=plan))
    server.steady._since -= 3600.0  # an hour goes by
    await node.beat(*((id, 1) for id in begun))
    await server._dispatch.expire_late()
    tasks = [(await server.runs.detail(run.id))[1][0] for run in (late, first)]
    assert [task.state for task in tasks] == [TaskState.QUEUED] * 2
    for run in (first, late):
        ended = snapshot(begun.pop(), 9, "ended", ended_at=2.0, exit_code=0, cached=True)
        await node.tell(ended)
        assert await _next_start(node) == f"{run.id}-0-1"


async def _next_start(node: HandNode) -> str:
    while True:
        for item in (await node.orders.get()).items:
            if isinstance(item, StartAttempt):
                return item.attempt
