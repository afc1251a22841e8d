"""What a copied state directory says of attempts that run on the original changes nothing."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quarterdeck.control.main import Server
from quarterdeck.core.states import Outcome, RunState
from quarterdeck.telemetry import FactsTaken, NodeCloned, NodeSession, RunEnded
from quarterdeck.wire import subjects
from quarterdeck.wire.run import AttemptSnapshot, Orders, ReportAttempt
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import (
    DEADLINE_S,
    Ears,
    HandNode,
    accepting,
    order,
    snapshot,
)

pytestmark = pytest.mark.anyio

LOST = {"reason": "lost", "error": "Its shim was killed", "cached": True}


async def ordered(server: Server, node: HandNode) -> tuple[str, str]:
    """A run and its attempt, which the node accepted."""
    node.answer = accepting
    run = await order(server, "hand")
    await node.orders.get()
    return run, f"{run}-0-1"


async def told(ears: Ears, node: HandNode, message: AttemptSnapshot) -> None:
    """Tell a fact in the node's session; the server has looked at it afterwards."""
    before = len(ears.all(FactsTaken))
    await node.tell(msgspec.structs.replace(message, session=node.session))
    await ears.until(FactsTaken, before + 1)


async def test_the_end_that_a_copy_tells_is_not_believed_and_the_originals_is_asked_for(
    place: Harbour, fleet: tuple[Server, Ears, HandNode]
) -> None:
    server, ears, node = fleet
    run, attempt = await ordered(server, node)
    await told(ears, node, snapshot(attempt, 2, "running"))
    copy = HandNode(place, server, "hand")
    copy.session = "session-copy"
    await copy.join()
    await ears.until(NodeSession, 2)
    await node.beat()
    await ears.until(NodeCloned)
    await told(ears, copy, snapshot(attempt, 3, "ended", **LOST))
    await copy.fabric.stop()
    assert (await server.runs.get(run)).state is RunState.RUNNING
    # the operator ended the copy and restarted the original, whose directory knows all sessions
    end = snapshot(attempt, 3, "ended", exit_code=0, cached=True)

    def journal(orders: Orders) -> tuple[AttemptSnapshot, ...]:
        return tuple(end for item in orders.items if isinstance(item, ReportAttempt))

    node.answer, node.session = journal, "session-3"
    before = copy.session[:8] + "session-"
    for number in range(2):
        heard = node.beat_bytes((attempt, 3), before=before)
        await node.fabric.publish(subjects.beat(node.id), heard)
        if number == 0:
            await ears.until(NodeSession, 4)
    assert (await ears.until(RunEnded)).outcome == Outcome.SUCCEEDED.value


async def test_what_a_replaced_session_told_late_is_not_applied(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    run, attempt = await ordered(server, node)
    node.session = "session-2"
    await node.beat()
    await ears.until(NodeSession, 2)
    node.session = "session-1"
    await told(ears, node, snapshot(attempt, 3, "ended", **LOST))
    assert (await server.runs.get(run)).state is not RunState.ENDED
    node.session = "session-2"
    await told(ears, node, snapshot(attempt, 3, "ended", exit_code=0, cached=True))
    assert (await ears.until(RunEnded)).outcome == Outcome.SUCCEEDED.value


async def test_a_fact_of_a_session_that_has_not_beaten_yet_counts_and_its_beat_is_asked_for(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    _, attempt = await ordered(server, node)
    asked = asyncio.Event()
    await node.fabric.subscribe(subjects.beat_now(node.id), lambda _: asked.set())
    node.session = "session-2"
    await told(ears, node, snapshot(attempt, 3, "ended", exit_code=0, cached=True))
    assert (await ears.until(RunEnded)).outcome == Outcome.SUCCEEDED.value
    async with asyncio.timeout(DEADLINE_S):
        await asked.wait()
