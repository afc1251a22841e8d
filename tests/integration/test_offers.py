"""Offers run out by one clock that does not step."""

from __future__ import annotations

from datetime import datetime, timedelta

from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Order, Plan
from quarterdeck.core.states import AttemptState
from quarterdeck.service import SystemClock
from quarterdeck.telemetry import NodeSession
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import HandNode, serving


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
        expire = server._dispatch._expire
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
