"""The server's loops against a real fabric and database, and a node that says odd things."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import func, select

from quarterdeck.control import seal
from quarterdeck.control.changes import end_topic
from quarterdeck.control.main import Server
from quarterdeck.control.observe import SETTLE_S
from quarterdeck.control.run import NewRun
from quarterdeck.core.model import Order
from quarterdeck.core.states import RunState
from quarterdeck.errors import Conflict, Invalid
from quarterdeck.store.base import Tx
from quarterdeck.store.tables import rejected
from quarterdeck.telemetry import (
    AttemptsMoved,
    FactRejected,
    LoopFailed,
    NodeCloned,
    NodeSession,
    RunEnded,
    SealFailed,
)
from quarterdeck.wire import subjects
from quarterdeck.wire.run import ReleaseAttempt, StartAttempt
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import (
    DEADLINE_S,
    Ears,
    HandNode,
    accepting,
    order,
    snapshot,
)

SENDS = 1000


async def test_a_final_report_that_comes_a_thousand_times_is_applied_once(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    """X2: its ack was lost again and again, so the node repeated it until it was taken."""
    server, ears, node = fleet
    node.answer = accepting
    run = await order(server, "hand")
    started = (await node.orders.get()).items[0]
    assert isinstance(started, StartAttempt)
    attempt = started.attempt
    end = snapshot(attempt, 3, "ended", exit_code=4, ended_at=2.0, cached=True)
    node.answer = lambda _: ()
    for number in range(SENDS):
        await node.tell(end, id=f"copy {number}")
    await node.tell(snapshot(attempt, 2, "running"), id="late")
    last = await order(server, "hand")
    final = snapshot(f"{last}-0-1", 3, "ended", exit_code=0, ended_at=2.0, cached=True)
    await node.tell(final, id="barrier")
    await ears.until(RunEnded, 2)
    assert [(e.run, e.outcome) for e in ears.all(RunEnded)] == [
        (run, "failed"),
        (last, "succeeded"),
    ]
    found, tasks, attempts = await server.runs.detail(run)
    assert (found.counts.failed, tasks[0].exit_code, attempts[0].state.value) == (1, 4, "ended")


async def test_facts_that_cannot_be_read_are_kept_as_rejected_and_harm_nobody(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    node.answer = accepting
    for number, data in enumerate((b"", b"\xff\xff", b"\x81\xa1a\x01")):
        await node.fabric.store(subjects.snapshots(node.id), data, message_id=f"bad {number}")
    await node.tell(snapshot("../../etc/passwd", 1, "running"), id="path")
    await node.tell(snapshot("0000000000000000-0-1", 1, "dancing"), id="phase")
    await ears.until(FactRejected, 5)
    run = await order(server, "hand")
    await node.orders.get()
    await node.tell(snapshot(f"{run}-0-1", 3, "ended", exit_code=0, ended_at=2.0, cached=True))
    await ears.until(RunEnded)

    def count(tx: Tx) -> int:
        return int(tx.execute(select(func.count()).select_from(rejected)).scalar_one())

    assert await server.database.read(count) == 5


async def test_a_node_cannot_speak_for_an_attempt_of_another_node(
    place: Harbour, fleet: tuple[Server, Ears, HandNode]
) -> None:
    server, ears, node = fleet
    node.answer = accepting
    other = HandNode(place, server, "other")
    await other.join()
    await ears.until(NodeSession, 2)
    run = await order(server, "hand")
    await node.orders.get()
    lie = snapshot(f"{run}-0-1", 9, "ended", exit_code=0, ended_at=2.0, cached=True)
    await other.tell(lie, id="lie")
    await node.tell(msgspec.structs.replace(lie, revision=3, exit_code=1), id="truth")
    ended = await ears.until(RunEnded)
    assert ended.outcome == "failed"
    await other.fabric.stop()


async def test_a_repeat_of_a_recorded_request_gets_its_run_although_its_node_is_gone(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    node.answer = accepting
    new = NewRun(target="hand", order=Order(argv=("true",)), created_by="test", key="once")
    run = await server.runs.create(new)
    await server.removals.remove("hand", by="test")
    await ears.until(RunEnded)
    assert (await server.runs.create(new)).id == run.id
    for other in (
        msgspec.structs.replace(new, key="new"),
        msgspec.structs.replace(new, key=None),
    ):
        with pytest.raises(Invalid, match="hits no node"):
            await server.runs.create(other)
    with pytest.raises(Conflict, match="belongs to run"):
        await server.runs.create(msgspec.structs.replace(new, order=Order(argv=("false",))))


async def test_an_order_is_sent_again_until_the_node_answers(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    run = await order(server, "hand")
    first = await node.orders.get()
    node.answer = accepting
    node.session = "session-2"
    await node.beat()
    await ears.until(NodeSession, 2)
    second = await node.orders.get()
    assert first.items[0].attempt == second.items[0].attempt == f"{run}-0-1"


async def test_after_the_log_is_archived_the_node_is_told_to_release(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, _, node = fleet
    node.answer = accepting
    run = await order(server, "hand")
    await node.orders.get()
    await node.tell(snapshot(f"{run}-0-1", 3, "ended", exit_code=0, ended_at=2.0, cached=True))
    orders = await node.orders.get()
    assert isinstance(orders.items[0], ReleaseAttempt)
    assert (await server.runs.get(run)).state is RunState.ENDED


async def test_an_end_is_not_shown_before_its_log_can_be_read(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    """The node says 5 bytes were written, but nobody has them: the run is not over."""
    server, ears, node = fleet
    node.answer = accepting
    run = await order(server, "hand")
    await node.orders.get()
    end = snapshot(f"{run}-0-1", 3, "ended", exit_code=0, ended_at=2.0)
    stream = msgspec.structs.replace(end.stdout, bytes=5, sha256="0" * 64)
    await node.tell(msgspec.structs.replace(end, stdout=stream))
    other = await order(server, "hand")
    await node.tell(snapshot(f"{other}-0-1", 3, "ended", exit_code=0, ended_at=2.0, cached=True))
    assert (await ears.until(RunEnded)).run == other
    assert (await server.runs.get(run)).state is not RunState.ENDED


async def test_a_log_that_can_not_be_archived_is_told_with_the_pause_until_the_next_try(
    fleet: tuple[Server, Ears, HandNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "RETRY_S", 0.1)
    server, ears, node = fleet
    node.answer = accepting
    server.parts.archive.work.rmdir()
    server.parts.archive.work.write_text("in the way")
    run = await order(server, "hand")
    await node.orders.get()
    end = snapshot(f"{run}-0-1", 3, "ended", exit_code=0, ended_at=2.0, cached=True)
    stream = msgspec.structs.replace(end.stdout, bytes=5, sha256="0" * 64)
    await node.tell(msgspec.structs.replace(end, stdout=stream))
    third = await ears.until(SealFailed, 3)
    assert [event.retry_s for event in ears.all(SealFailed)[:3]] == [0.1, 0.2, 0.4]
    assert (third.attempt, "Not a directory" in third.error) == (f"{run}-0-1", True)
    (trouble,) = [found for found in server.services.troubles() if found.name == "seal"]
    assert trouble.times >= 3 and run in trouble.error
    assert not ears.all(LoopFailed)


async def test_two_agents_with_one_identity_are_quarantined(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    """X29"""
    server, ears, node = fleet
    node.session = "session-2"
    await node.beat()
    await ears.until(NodeSession, 2)
    node.session = "session-1"
    await node.beat()
    await ears.until(NodeCloned)
    assert server.fleet.get(node.id).quarantined
    await order(server, "hand")
    assert node.orders.empty()


async def offered_without_an_answer(
    fleet: tuple[Server, Ears, HandNode],
) -> tuple[Ears, HandNode, str]:
    """A start that was sent and never answered; then another session of the node is announced."""
    server, ears, node = fleet
    run = await order(server, "hand")
    await node.orders.get()
    node.session = "session-2"
    return ears, node, f"{run}-0-1"


async def test_a_start_that_a_living_original_may_have_taken_is_never_sent_to_its_copy(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    """X29: the answer of the original was lost when its copy came up."""
    ears, node, _ = await offered_without_an_answer(fleet)
    wished = asyncio.Event()
    await node.fabric.subscribe(subjects.beat_now(node.id), lambda _: wished.set())
    await node.beat()
    async with asyncio.timeout(DEADLINE_S):
        await wished.wait()
    original = node.beat_bytes(session="session-1")
    await node.fabric.publish(subjects.beat(node.id), original)
    await ears.until(NodeCloned)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * SETTLE_S):
            await node.orders.get()


async def test_a_start_that_nobody_answered_goes_to_the_next_session_after_a_moment(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    _, node, attempt = await offered_without_an_answer(fleet)
    await node.beat()
    async with asyncio.timeout(DEADLINE_S):
        (again,) = (await node.orders.get()).items
    assert isinstance(again, StartAttempt) and again.attempt == attempt


async def test_a_run_that_is_cancelled_before_it_was_sent_is_told_as_any_other_end(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    node.session = "session-2"
    await node.fabric.stop()
    run = await order(server, "hand")
    with server.changes.watch(end_topic(run)) as poke:
        await server.runs.cancel(run)
        async with asyncio.timeout(DEADLINE_S):
            while (await server.runs.get(run)).state is not RunState.ENDED:
                await poke.wait()
    assert [e.run for e in ears.all(RunEnded)] == [run]
    states = [state for e in ears.all(AttemptsMoved) for state in e.states]
    assert states == ["cancelled"]
