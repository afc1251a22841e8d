"""OUT does not keep for ever what no attempt owns."""

from __future__ import annotations

from quarterdeck.control.main import Server
from quarterdeck.core.ids import split_attempt
from quarterdeck.fabric.topology import held_subjects
from quarterdeck.telemetry import StraysPurged
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from tests.integration.server_host import Ears, HandNode, accepting, order

CHUNK = encode_chunk(Chunk("stdout", 0, 0, b"x"))


async def test_chunks_of_attempts_that_nobody_ordered_leave_the_cache_and_others_stay(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, ears, node = fleet
    node.answer = accepting
    run = await order(server, "hand")
    await node.orders.get()
    mine = f"{run}-0-1"
    unknown = f"{run[:-4]}zzzz-0-1"
    other_run = "0123456789abcdef"
    for attempt, of_run in ((mine, run), (unknown, split_attempt(unknown)[0]), (mine, other_run)):
        await node.fabric.store(subjects.output(node.id, of_run, attempt), CHUNK)
    await node.fabric.store(f"out.{node.id}.odd", CHUNK)
    assert len(await held_subjects(server.fabric, subjects.OUT, subjects.ALL_OUTPUT)) == 4
    await server._strays.round()
    assert (await ears.until(StraysPurged)).subjects == 3
    left = await held_subjects(server.fabric, subjects.OUT, subjects.ALL_OUTPUT)
    assert left == [subjects.output(node.id, run, mine)]
    await server._strays.round()
    assert len(ears.all(StraysPurged)) == 1
