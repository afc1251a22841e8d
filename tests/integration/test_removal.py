"""A node that was removed: cut off, not believed, and what ran there told truthfully."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec
import pytest

from quarterdeck.control.again import Retry, left_out, retry
from quarterdeck.control.changes import run_topic
from quarterdeck.core import attempt as machine
from quarterdeck.core.model import Snapshot
from quarterdeck.core.states import AttemptState, Outcome, Phase
from quarterdeck.errors import Conflict, Denied, NotFound
from quarterdeck.store import node as node_store
from quarterdeck.telemetry import FactsTaken, LogSealed, NodeSession, RunEnded
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode, encode_chunk
from quarterdeck.wire.run import AttemptSnapshot, Orders
from tests.contracts.fabric_place import Connections
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import (
    DEADLINE_S,
    HandNode,
    heard_of,
    order,
    serving,
    with_node,
)


def running(orders: Orders) -> tuple[AttemptSnapshot, ...]:
    return tuple(
        AttemptSnapshot(attempt=item.attempt, revision=2, phase="running", started_at=1.0)
        for item in orders.items
    )


def ended(orders: Orders) -> AttemptSnapshot:
    """The end of what an order was for."""
    return msgspec.structs.replace(
        running(orders)[0], revision=9, phase="ended", exit_code=0, ended_at=2.0, cached=True
    )


async def either(*waits: Coroutine[Any, Any, object]) -> None:
    """The first of these has come."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    assert done and all(task.exception() is None for task in done)


async def test_a_removed_node_is_cut_off_within_two_seconds_and_stays_out_after_every_restart(
    place: Harbour,
) -> None:
    async with serving(place) as (server, ears):
        bad, good = HandNode(place, server, "bad"), HandNode(place, server, "good")
        await bad.join()
        await good.join()
        await ears.until(NodeSession, 2)
        began = time.monotonic()
        await server.removals.remove("bad", by="test")
        await place.error("link of bad: link to the fabric lost")
        assert time.monotonic() - began < 2
        assert good.fabric.connected
        assert [node.name for node in server.fleet.every()] == ["good"]
        with pytest.raises(Denied, match="removed from this fleet"):
            await bad.join()  # with a join token that is valid, and the key that was removed
        await place.error("does not admit")
        place.kill()
        back = Connections(good.fabric)
        await place.up()
        await back.reach(1)
        assert not bad.fabric.connected
        await good.fabric.stop()
        await bad.fabric.stop()
    async with serving(place) as (server, _):
        assert [node.name for node in server.fleet.every()] == ["good"]
        late = HandNode(place, server, "bad")
        with pytest.raises(Denied, match="removed from this fleet"):
            await late.join()


async def test_a_node_removed_by_one_server_is_cut_off_and_not_believed_by_one_with_copied_keys(
    place: Harbour,
) -> None:
    shutil.copytree(place.root / "authority", place.root / "copied")
    both = contextlib.AsyncExitStack()
    async with both:
        one, heard = await both.enter_async_context(serving(place, "one"))
        two, also = await both.enter_async_context(serving(place, "two", keys="copied"))
        bad = HandNode(place, one, "bad")
        bad.answer = running
        await bad.join()
        await heard_of(bad, one)
        await heard_of(bad, two)
        run = await order(one, "bad")
        asked = await bad.orders.get()
        began = time.monotonic()
        await two.removals.remove("bad", by="test")
        await place.error("link of bad: link to the fabric lost")
        assert time.monotonic() - began < 2
        async with asyncio.timeout(DEADLINE_S):
            with one.changes.watch(run_topic(run)) as poke:
                while one.fleet.every() or (await one.runs.get(run)).outcome is not Outcome.LOST:
                    await poke.wait(0.2)
        end = ended(asked)
        looked = {ears: len(ears.all(FactsTaken)) for ears in (heard, also)}
        # as if it had been stored before the cut: whichever server takes it in, it changes nothing
        await one.fabric.store(subjects.snapshots(bad.id), encode(end), message_id="late")
        await either(*(ears.until(FactsTaken, 1 + looked[ears]) for ears in (heard, also)))
        assert (await one.runs.get(run)).outcome is Outcome.LOST
        for server in (one, two):
            late = HandNode(place, server, "bad")
            with pytest.raises(Denied, match="removed from this fleet"):
                await late.join()
        place.kill()
        back = Connections(one.fabric)
        await place.up()
        await back.reach(1)
        await place.error("does not admit")
        assert not bad.fabric.connected
        await bad.fabric.stop()


async def test_what_was_never_sent_fails_and_what_may_run_is_lost_when_its_node_is_removed(
    place: Harbour,
) -> None:
    async with serving(place) as (server, ears):
        node = HandNode(place, server, "gone")
        node.answer = running
        await node.join()
        await ears.until(NodeSession)
        runs = await order(server, "name:gone")
        await node.orders.get()
        attempt = f"{runs}-0-1"
        chunk = encode_chunk(Chunk("stdout", 0, 1, b"what was seen\n"))
        await node.fabric.store(subjects.output(node.id, runs, attempt), chunk)
        silent = HandNode(place, server, "silent")
        await silent.enrol()
        waits = await order(server, "name:silent")
        for name in ("gone", "silent"):
            await server.removals.remove(name, by="test")
        await ears.until(RunEnded, 2)
        _, _, (lost,) = await server.runs.detail(runs)
        assert (lost.state, lost.outcome) == (AttemptState.ENDED, Outcome.LOST)
        assert lost.snapshot is not None and "removed" in (lost.snapshot.error or "")
        _, _, (failed,) = await server.runs.detail(waits)
        assert (failed.outcome, failed.released) == (Outcome.FAILED, True)
        await ears.until(LogSealed)
        assert await server.output.read(lost, "stdout", 0, 100) == b"what was seen\n"
        with pytest.raises(NotFound):
            await server.removals.remove("gone", by="test")
        await node.fabric.stop()


async def test_facts_of_a_removed_node_that_were_on_their_way_change_nothing(
    place: Harbour,
) -> None:
    async with with_node(place, "liar", running) as (server, ears, node):
        run = await order(server, "liar")
        asked = await node.orders.get()
        await server.removals.remove("liar", by="test")
        await ears.until(RunEnded)
        end = ended(asked)
        # as if it had been stored before the cut
        await server.fabric.store(subjects.snapshots(node.id), encode(end), message_id="late")
        other = HandNode(place, server, "honest")
        other.answer = running
        await other.join()
        await ears.until(NodeSession, 2)
        last = await order(server, "honest")
        await other.orders.get()
        await other.tell(msgspec.structs.replace(end, attempt=f"{last}-0-1"), id="barrier")
        await ears.until(RunEnded, 2)
        found, _, _ = await server.runs.detail(run)
        assert (found.counts.lost, found.outcome) == (1, Outcome.LOST)
        await other.fabric.stop()


async def test_the_word_of_a_removed_node_does_not_count_before_its_attempts_were_ended(
    place: Harbour,
) -> None:
    async with with_node(place, "gone", running) as (server, ears, node):
        run = await order(server, "name:gone")
        await node.orders.get()
        attempt = f"{run}-0-1"
        word = Snapshot(attempt=attempt, revision=3, phase=Phase.ENDED, exit_code=0, cached=True)
        now = server.clock.now()
        await server.database.write(partial(node_store.remove, node_id=node.id, now=now))
        await server._ingest.apply([(attempt, node.id, machine.Reported(snapshot=word))])
        assert (await ears.until(RunEnded)).outcome == Outcome.LOST.value


async def test_a_retry_goes_to_the_nodes_that_are_left_and_names_the_removed_one(
    place: Harbour,
) -> None:
    async with serving(place) as (server, ears):
        bad, good = HandNode(place, server, "bad"), HandNode(place, server, "good")
        for node in (bad, good):
            node.answer = failing
            await node.join()
        await ears.until(NodeSession, 2)
        run = await order(server, "all")
        await ears.until(RunEnded)
        await server.removals.remove("bad", by="test")
        await place.error("link of bad: link to the fabric lost")
        wish = Retry(created_by="test")
        again = await retry(server.runs, run, wish)
        assert await left_out(server.runs, run, wish) == ("bad",)
        _, tasks, _ = await server.runs.detail(again.id)
        assert [task.node_name for task in tasks] == ["good"]
        await ears.until(RunEnded, 2)
        await server.removals.remove("good", by="test")
        await place.error("link of good: link to the fabric lost")
        with pytest.raises(Conflict, match="`qd clone RUN -t TARGET`"):
            await retry(server.runs, run, wish)
        for node in (bad, good):
            await node.fabric.stop()


def failing(orders: Orders) -> tuple[AttemptSnapshot, ...]:
    end = {"revision": 9, "phase": "ended", "exit_code": 1, "ended_at": 2.0, "cached": True}
    return tuple(msgspec.structs.replace(word, **end) for word in running(orders))
