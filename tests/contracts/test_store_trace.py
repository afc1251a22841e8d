"""Traces on every database: the row, its run, beats, pieces, and what is forgotten."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import pytest

from quarterdeck.control.step import write_guarded
from quarterdeck.core import trace as rules
from quarterdeck.core.states import Outcome, RunState
from quarterdeck.core.trace import Dropped, End, Positions, Start, Trace
from quarterdeck.core.traced import attempt_of, attempt_of_trace, run_of, task_of
from quarterdeck.errors import NotFound
from quarterdeck.store import piece as piece_store
from quarterdeck.store import run as run_store
from quarterdeck.store import trace as store
from quarterdeck.store.base import Database, StaleWrite, Tx
from quarterdeck.store.piece import Piece
from quarterdeck.store.trace import TraceFilter

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)
ID = "06gzrkf62a2sc3jj"


def begun(id: str = ID, *, kept: bool = False, key: str = "0" * 32, namespace: str = "a") -> Trace:
    return Trace(
        id=id,
        namespace=namespace,
        name="deploy",
        sender="wéb 1.*>",
        key=key,
        by="token",
        kept=kept,
        start=Start(host="web-1", user="anna", command=("make", "all"), pid=7),
        created_at=NOW,
        heard_at=NOW,
    )


async def made(database: Database, trace: Trace) -> Trace:
    await database.write(partial(store.create, trace=trace))
    return await database.read(partial(store.get, trace_id=trace.id))


async def change(database: Database, trace: Trace, after: Trace) -> Trace:
    return await database.write(lambda tx: store.save(tx, trace, after))


async def test_a_trace_and_its_run_are_read_as_they_were_written(database: Database) -> None:
    trace = await made(database, begun())
    assert trace == begun()
    run = await database.read(partial(run_store.get, run_id=ID))
    assert run == msgspec.structs.replace(run_of(trace), order=run.order)
    assert await database.read(lambda tx: run_store.tasks_of(tx, ID)) == [task_of(trace)]
    assert await database.read(lambda tx: run_store.attempts_of(tx, ID)) == [attempt_of(trace)]
    assert (await database.read(lambda tx: run_store.orders_of(tx, [ID])))[ID].argv == (
        "make",
        "all",
    )
    assert await database.read(lambda tx: store.by_key(tx, "a", "0" * 32)) == trace
    assert await database.read(lambda tx: store.by_key(tx, "b", "0" * 32)) is None


async def test_two_begins_with_one_key_are_one_trace(database: Database) -> None:
    def begin(tx: Tx, id: str) -> str:
        known = store.by_key(tx, "a", "0" * 32)
        if known is None:
            store.create(tx, begun(id))
        return id if known is None else known.id

    ids = [f"06gzrkf62a2sc3j{n}" for n in range(8)]
    found = await asyncio.gather(*(write_guarded(database, partial(begin, id=id)) for id in ids))
    assert len(set(found)) == 1
    with pytest.raises(StaleWrite):
        await database.write(lambda tx: store.create(tx, begun("06gzrkf62a2sc3jz")))
    with pytest.raises(NotFound):  # whole or not at all
        await database.read(lambda tx: run_store.get(tx, "06gzrkf62a2sc3jz"))


async def test_a_lost_trace_ends_its_run_and_opens_it_again(database: Database) -> None:
    trace = await made(database, begun())
    lost = await change(database, trace, rules.fell_silent(trace, LATER))
    run = await database.read(partial(run_store.get, run_id=ID))
    assert (run.state, run.outcome, run.ended_at) == (RunState.ENDED, Outcome.LOST, LATER)
    assert not await database.read(lambda tx: run_store.to_seal(tx, 10, ()))
    await change(database, lost, rules.came_back(lost, LATER))
    run = await database.read(partial(run_store.get, run_id=ID))
    assert (run.state, run.outcome, run.ended_at) == (RunState.RUNNING, None, None)
    with pytest.raises(StaleWrite):
        await change(database, trace, rules.ended(trace, End(code=0), LATER))


async def test_beats_count_and_name_those_who_were_lost(database: Database) -> None:
    first = await made(database, begun())
    other = await made(database, begun("06gzrkf62a2sc3jk", key="1" * 32))
    await change(database, other, rules.fell_silent(other, NOW))
    assert await database.read(store.beats) == [(ID, 0)]
    reached = {first.id: Positions(stdout=7), other.id: Positions(), "nobody": Positions()}
    assert await database.write(lambda tx: store.beat(tx, reached, LATER)) == [other.id]
    less = {first.id: Positions(stdout=3, stderr=2)}
    await database.write(lambda tx: store.beat(tx, less, LATER))
    assert await database.read(store.beats) == [(ID, 2)]
    found = await database.read(partial(store.get, trace_id=ID))
    assert (found.bytes, found.heard_at) == (Positions(stdout=7, stderr=2), LATER)


async def test_pieces_are_found_from_any_byte_and_go_with_their_trace(database: Database) -> None:
    trace = await made(database, begun(kept=True))
    pieces = [
        Piece(trace=ID, stream="stdout", start=0, length=5, times=b"t", inline=b"hello"),
        Piece(trace=ID, stream="stdout", start=5, length=9, times=b"", object="x/y"),
        Piece(trace=ID, stream="stderr", start=0, length=2, times=b"", inline=b"oh"),
    ]
    await database.write(lambda tx: piece_store.add(tx, pieces))
    found = await database.read(lambda tx: piece_store.page(tx, ID, "stdout", 0, 10))
    assert found == pieces[:2]
    assert await database.read(lambda tx: piece_store.page(tx, ID, "stdout", 5, 10)) == pieces[1:2]
    bare = await database.read(lambda tx: piece_store.page(tx, ID, "stdout", 4, 1, whole=False))
    assert [(one.start, one.inline) for one in bare] == [(0, b"")]
    drops = (Dropped(stream="stdout", offset=5, count=9),)
    changed = msgspec.structs.replace(trace, dropped=drops, over=Positions(stderr=4))
    assert (await change(database, trace, changed)).dropped == drops
    await database.write(lambda tx: store.remove(tx, [ID]))
    assert await database.read(lambda tx: piece_store.page(tx, ID, "stdout", 0, 10)) == []


async def test_what_is_over_is_archived_or_forgotten_in_its_time(database: Database) -> None:
    kept = await made(database, begun(kept=True))
    brief = await made(database, begun("06gzrkf62a2sc3jk", key="1" * 32))
    await made(database, begun("06gzrkf62a2sc3jm", key="2" * 32))
    lost = await change(database, kept, rules.fell_silent(kept, NOW))
    assert await database.read(lambda tx: store.to_seal(tx, NOW - timedelta(1), 10)) == []
    assert await database.read(lambda tx: store.to_seal(tx, NOW, 10)) == [lost]
    done = await change(database, lost, rules.ended(lost, End(code=0), NOW))
    assert await database.read(lambda tx: store.to_seal(tx, NOW - timedelta(1), 10)) == [done]
    sealed = await change(database, done, rules.archived(done))
    assert sealed.over_now and not await database.read(lambda tx: store.to_seal(tx, LATER, 10))
    await change(database, brief, rules.ended(brief, End(code=0), NOW))
    assert await database.read(lambda tx: store.expired(tx, NOW, 10)) == []
    assert await database.read(lambda tx: store.expired(tx, LATER, 10)) == [brief.id]
    await database.write(lambda tx: store.remove(tx, [brief.id]))
    with pytest.raises(NotFound):
        await database.read(partial(store.get, trace_id=brief.id))
    with pytest.raises(NotFound):
        await database.read(partial(run_store.get, run_id=brief.id))
    left = await database.read(lambda tx: store.page(tx, TraceFilter(namespace="a")))
    assert [one.id for one in left] == ["06gzrkf62a2sc3jm", ID]
    assert attempt_of_trace(ID) == f"{ID}-0-1"


async def test_who_watches_a_name_is_given_what_was_heard_of_and_what_it_knows(
    database: Database,
) -> None:
    ids = [f"06gzrkf62a2sc3j{n}" for n in range(3)]
    going, late, old = [await made(database, begun(id, key=id * 2)) for id in ids]
    await made(database, begun("06gzrkf62a2sc3jz", namespace="b"))
    said = End(code=0, ended_at=NOW)
    await change(database, late, rules.ended(late, said, LATER))  # delivered long after its end
    await change(database, old, rules.ended(old, said, NOW))

    async def watched(*known: str) -> list[str]:
        since = LATER - timedelta(hours=1)
        ask = partial(store.watched, namespace="a", name="deploy", since=since, known=known)
        return [trace.id for trace in await database.read(ask)]

    assert await watched() == ids[:2]
    assert await watched(going.id, old.id, "06gzrkf62a2sc3jz") == ids


async def test_the_restart_of_a_fabric_is_written_down_for_its_namespace(
    database: Database,
) -> None:
    trace = await made(database, begun())
    await made(database, begun("06gzrkf62a2sc3jk", key="1" * 32, namespace="b"))
    assert await database.write(lambda tx: store.forget(tx, "a")) == []
    await database.write(lambda tx: store.beat(tx, {ID: Positions(stdout=7)}, NOW))
    assert [one.id for one in await database.write(lambda tx: store.forget(tx, "a"))] == [ID]
    found = await database.read(partial(store.get, trace_id=trace.id))
    assert (found.forgotten, found.bytes) == (Positions(stdout=7), Positions(stdout=7))
    assert await database.read(store.namespaces) == ["a", "b"]


async def test_a_restart_before_the_first_beat_takes_what_a_server_knows_of(
    database: Database,
) -> None:
    await made(database, begun())
    reached = {ID: Positions(stdout=9, stderr=2), "nosuch": Positions(stdout=1)}
    gone = await database.write(lambda tx: store.forget(tx, "a", reached))
    assert [one.id for one in gone] == [ID]
    older = {ID: Positions(stdout=3)}
    assert await database.write(lambda tx: store.forget(tx, "a", older)) == []
    found = await database.read(partial(store.get, trace_id=ID))
    assert found.forgotten == found.bytes == Positions(stdout=9, stderr=2)
