"""What the server does now, put together from its parts: for `/debug/status` and for metrics.

Every list is bounded, and every question that may hang has a deadline: a part that does not answer
becomes a sentence in its place.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec

from quarterdeck.control.crowd import Crowd
from quarterdeck.control.foreign.counts import View
from quarterdeck.control.observe import Fleet
from quarterdeck.core import liveness
from quarterdeck.core.model import Node
from quarterdeck.core.states import NodeState
from quarterdeck.errors import QuarterdeckError, Unavailable
from quarterdeck.fabric.base import Fabric, Fill
from quarterdeck.fabric.topology import fill
from quarterdeck.service import Clock, Services, Trouble
from quarterdeck.store.backlog import Backlog, backlog
from quarterdeck.store.measured import MeasuredDatabase

T = TypeVar("T")

ANSWER_S = 2.0
TASKS_SHOWN = 200
NODES_SHOWN = 50
CLOCK_S = 2.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment. `tasks` are (name, where it is), `nodes` counts by state,
    `unwell` the nodes that somebody should look at, `clocks` names and seconds of those that are
    off, `foreign` the protocols of other tools that are heard."""

    at: datetime
    up_s: float
    tasks: tuple[tuple[str, str], ...]
    tasks_total: int
    troubles: tuple[Trouble, ...]
    database_problem: str
    database_waiting: int
    backlog: Backlog | None
    fabric_problem: str
    fills: tuple[Fill, ...]
    streams_open: int
    streams_bytes: int
    nodes: dict[str, int]
    unwell: tuple[Node, ...]
    clocks: tuple[tuple[str, float], ...]
    foreign: tuple[View, ...]


class Survey:
    """Asks the parts of one server."""

    def __init__(
        self,
        *,
        services: Services,
        clock: Clock,
        database: MeasuredDatabase,
        fabric: Fabric,
        fleet: Fleet,
        crowd: Crowd,
        began: float,
        foreign: Callable[[], tuple[View, ...]],
    ) -> None:
        self._services = services
        self._clock = clock
        self._database = database
        self._fabric = fabric
        self._fleet = fleet
        self._crowd = crowd
        self._began = began
        self._foreign = foreign

    async def report(self) -> Report:
        """Takes at most about `ANSWER_S`, whatever hangs."""
        now = self._clock.now()
        (open_work, database_problem), (fills, fabric_problem) = await asyncio.gather(
            _answer(lambda: self._database.read(backlog), "The database"),
            _answer(lambda: fill(self._fabric, timeout_s=ANSWER_S), "The fabric"),
        )
        places = self._services.places()
        nodes = self._fleet.every()
        unwell = [n for n in nodes if liveness.state(n, now) is not NodeState.READY or n.full]
        return Report(
            at=now,
            up_s=self._clock.monotonic() - self._began,
            tasks=tuple(places[:TASKS_SHOWN]),
            tasks_total=len(places),
            troubles=tuple(self._services.troubles()),
            database_problem=database_problem or self._database.failing,
            database_waiting=self._database.waiting,
            backlog=open_work,
            fabric_problem=fabric_problem,
            fills=fills or (),
            streams_open=self._crowd.watching,
            streams_bytes=self._crowd.waiting_bytes,
            nodes=node_states(nodes, now),
            unwell=tuple(unwell[:NODES_SHOWN]),
            clocks=self._wrong_clocks(nodes, now),
            foreign=self._foreign(),
        )

    def _wrong_clocks(self, nodes: list[Node], now: datetime) -> tuple[tuple[str, float], ...]:
        ready = [node for node in nodes if liveness.state(node, now) is NodeState.READY]
        offsets = [(node.name, self._fleet.clock_offset(node.id)) for node in ready]
        return tuple(pair for pair in offsets if abs(pair[1]) > CLOCK_S)[:NODES_SHOWN]


def node_states(nodes: list[Node], now: datetime) -> dict[str, int]:
    """How many nodes are in each state; every state is there."""
    found = Counter(liveness.state(node, now).value for node in nodes)
    return {state.value: found[state.value] for state in NodeState}


async def _answer(ask: Callable[[], Awaitable[T]], who: str) -> tuple[T | None, str]:
    """(the answer, "") or (None, why there is none)."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await ask(), ""
    except TimeoutError:
        return None, f"{who} did not answer within {ANSWER_S:g} s."
    except Unavailable as error:
        return None, error.message
    except QuarterdeckError as error:
        return None, f"{who}: {error.message}"
