"""Sealing what a node that lies or is damaged says of its output."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from quarterdeck.control.ingest import Ingest
from quarterdeck.control.main import Server
from quarterdeck.control.seal import MAX_RETRY_S, recent
from quarterdeck.core.states import AttemptState, Outcome
from quarterdeck.errors import Broken
from quarterdeck.store import log as log_store
from quarterdeck.store.archive import MARKS
from quarterdeck.telemetry import LogSealed, NodeSession
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from quarterdeck.wire.marks import MOST_BYTES
from quarterdeck.wire.run import (
    AnswerItem,
    AttemptUnknown,
    Orders,
    OutputBytes,
    ReadOutput,
    StartAttempt,
    StreamEndMessage,
)
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import Ears, HandNode, order, serving, snapshot

WRITTEN = b"a" * 10


@pytest.fixture
async def fleet(place: Harbour) -> AsyncIterator[tuple[Server, Ears, HandNode]]:
    async with serving(place) as (server, ears):
        node = HandNode(place, server, "liar")
        node.answer = endless
        await node.join()
        await ears.until(NodeSession)
        try:
            yield server, ears, node
        finally:
            await node.fabric.stop()


def endless(orders: Orders) -> tuple[AnswerItem, ...]:
    """Marks without an end, and always more than was asked."""
    items: list[AnswerItem] = []
    for item in orders.items:
        if isinstance(item, ReadOutput):
            data = b"\1" * (1 << 20) if item.stream == "times" else WRITTEN + b"more"
            size = 1 << 60 if item.stream == "times" else len(WRITTEN)
            items.append(
                OutputBytes(
                    attempt=item.attempt,
                    stream=item.stream,
                    offset=item.offset,
                    data=data,
                    size=size,
                    final=True,
                )
            )
        elif isinstance(item, StartAttempt):
            items.append(snapshot(item.attempt, 1, "accepted"))
        else:
            items.append(AttemptUnknown(attempt=item.attempt))
    return tuple(items)


async def end(node: HandNode, attempt: str, size: int) -> None:
    stdout = StreamEndMessage(bytes=size, sha256=hashlib.sha256(WRITTEN).hexdigest())
    last = snapshot(attempt, 3, "ended", exit_code=0, ended_at=2.0)
    await node.tell(msgspec.structs.replace(last, stdout=stdout))


async def test_marks_without_an_end_and_more_than_was_asked_are_cut_off(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    attempt = f"{await order(server, 'liar')}-0-1"
    await node.orders.get()
    await end(node, attempt, len(WRITTEN))
    await ears.until(LogSealed)
    logs = await server.database.read(lambda tx: log_store.load(tx, [attempt]))
    layout = logs[attempt].layout
    assert (layout["stdout"].bytes, layout[MARKS].bytes) == (len(WRITTEN), MOST_BYTES)


def test_what_another_server_sealed_is_not_kept_for_a_later_try() -> None:
    later = {"soon": (1010.0, 20.0), "due": (990.0, 20.0), "sealed": (1000 - MAX_RETRY_S, 20.0)}
    assert recent(later, 1000.0) == {"soon": (1010.0, 20.0), "due": (990.0, 20.0)}


async def test_what_a_power_cut_took_from_the_node_after_it_was_sent_is_no_part_of_the_log(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    run = await order(server, "liar")
    attempt = f"{run}-0-1"
    await node.orders.get()
    for offset in (len(WRITTEN) - 5, len(WRITTEN) + 20):
        chunk = encode_chunk(Chunk("stdout", offset, 1, b"aaaaabbbbb"))
        await node.fabric.store(subjects.output(node.id, run, attempt), chunk)
    await end(node, attempt, len(WRITTEN))
    await ears.until(LogSealed)
    _, _, (sealed,) = await server.runs.detail(run)
    assert not sealed.log_gone
    assert await server.output.read(sealed, "stdout", 0, 100) == WRITTEN


async def test_a_claim_of_more_than_the_order_allows_is_not_fetched(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    run = await order(server, "liar")
    attempt = f"{run}-0-1"
    await node.orders.get()
    chunk = encode_chunk(Chunk("stdout", 0, 1, WRITTEN))
    await node.fabric.store(subjects.output(node.id, run, attempt), chunk)
    await end(node, attempt, 1 << 60)
    await ears.until(LogSealed)
    _, _, (sealed,) = await server.runs.detail(run)
    assert (sealed.state, sealed.outcome) == (AttemptState.ENDED, Outcome.SUCCEEDED)
    assert sealed.log_gone and sealed.snapshot is not None
    assert "its order allows" in (sealed.snapshot.error or "")
    assert await server.output.read(sealed, "stdout", 0, 100) == WRITTEN


async def test_before_it_is_archived_a_stream_may_end_where_it_was_said_to_and_not_before(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    run = await order(server, "liar")
    await node.orders.get()
    await end(node, f"{run}-0-1", len(WRITTEN))
    await ears.until(LogSealed)
    _, _, (attempt,) = await server.runs.detail(run)
    before = msgspec.structs.replace(attempt, sealed=False)
    node.answer = empty
    assert await server.output.read(before, "stderr", 0, 100) == b""
    with pytest.raises(Broken, match="ends at byte 0"):
        await server.output.read(before, "stdout", 0, 100)


def empty(orders: Orders) -> tuple[AnswerItem, ...]:
    """All of its files are, and the attempt has ended."""
    return tuple(
        OutputBytes(
            attempt=item.attempt,
            stream=item.stream,
            offset=item.offset,
            data=b"",
            size=0,
            final=True,
        )
        for item in orders.items
        if isinstance(item, ReadOutput)
    )


async def test_archiving_gives_way_to_the_ends_of_others_but_not_for_ever(
    fleet: tuple[Server, Ears, HandNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, ears, node = fleet
    looks: list[bool] = []

    def more_and_more(_ingest: Ingest) -> bool:
        looks.append(bool(ears.all(LogSealed)))
        return True

    run = await order(server, "liar")
    await node.orders.get()
    chunk = encode_chunk(Chunk("stdout", 0, 1, WRITTEN))
    await node.fabric.store(subjects.output(node.id, run, f"{run}-0-1"), chunk)
    monkeypatch.setattr(Ingest, "crowded", property(more_and_more))
    await end(node, f"{run}-0-1", len(WRITTEN))
    await ears.until(LogSealed)
    assert looks[:2] == [False, False]
