"""What every store must do, proven on real SQLite and real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

from quarterdeck.core.attempt import Dropped, Event, Reported, Sealed, StopAsked, step
from quarterdeck.core.ids import attempt_id, run_id, task_id
from quarterdeck.core.model import Attempt, Counts, Node, Order, Run, Snapshot, StreamEnd, Task
from quarterdeck.core.states import AttemptState, Outcome, Phase, RunState, TaskState
from quarterdeck.errors import Conflict, NotFound
from quarterdeck.store import node as node_store
from quarterdeck.store import rows
from quarterdeck.store import run as store
from quarterdeck.store import step as step_store
from quarterdeck.store.base import Database, StaleWrite, Tx
from quarterdeck.store.tables import orders

pytestmark = pytest.mark.anyio

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)

Rows = tuple[Run, list[Task], list[Attempt]]


def new_run(number: int = 0, tasks: int = 1, **fields: Any) -> Rows:
    id = run_id(1_900_000_000_000 + number, b"abcd")
    made = [
        Task(
            id=task_id(id, at),
            run=id,
            position=at,
            node=f"n{at}",
            node_name=f"web{at}",
            state=TaskState.QUEUED,
            tries=1,
        )
        for at in range(tasks)
    ]
    tries = [
        Attempt(id=attempt_id(t.id, 1), run=id, task=t.id, node=t.node, number=1, offer_until=NOW)
        for t in made
    ]
    run = Run(
        id=id,
        target="all",
        order=Order(argv=("echo", "hi"), env={"A": "b"}, script=b"\0\xff"),
        created_at=NOW,
        created_by="token",
        counts=Counts(total=tasks, queued=tasks),
    )
    return msgspec.structs.replace(run, **fields), made, tries


async def created(
    database: Database, number: int = 0, tasks: int = 1, key: str | None = None, **fields: Any
) -> Rows:
    rows = new_run(number, tasks, **fields)
    await database.write(lambda tx: store.create(tx, *rows, key))
    return rows


def said(id: str, phase: Phase, output: int = 0, **fields: Any) -> Reported:
    snapshot = Snapshot(
        attempt=id, revision=len(phase), phase=phase, stdout=StreamEnd(bytes=output), **fields
    )
    return Reported(snapshot=snapshot)


async def changed(
    database: Database, id: str, *events: Event, now: datetime = NOW
) -> tuple[Attempt, set[str]]:
    """An attempt after events, saved; the runs that became due."""

    def unit(tx: Tx) -> tuple[Attempt, set[str]]:
        before = after = store.attempts_by_id(tx, [id])[id]
        for event in events:
            after = step(after, event, now)
        return after, store.save_attempts(tx, [(before, after)], now)

    return await database.write(unit)


async def seen(database: Database, id: str) -> Attempt:
    return (await database.read(lambda tx: store.attempts_by_id(tx, [id])))[id]


def ids(attempts: Iterable[Attempt]) -> list[str]:
    return sorted(attempt.id for attempt in attempts)


# ---- runs


async def test_what_was_created_comes_back_field_by_field(database: Database) -> None:
    run, tasks, attempts = await created(database, tasks=3, title="Zoë", origin="trace")
    bare = await database.read(lambda tx: store.get(tx, run.id))
    assert bare == msgspec.structs.replace(run, order=Order())
    assert await database.read(lambda tx: store.tasks_of(tx, run.id)) == tasks
    assert await database.read(lambda tx: store.attempts_of(tx, run.id)) == attempts
    assert await database.read(lambda tx: store.orders_of(tx, [run.id, "x"])) == {run.id: run.order}


async def test_equal_orders_are_kept_once(database: Database) -> None:
    for number in range(3):
        await created(database, number)
    await created(database, 3, order=Order(argv=("other",)))
    assert await database.read(lambda tx: tx.scalar(select(func.count()).select_from(orders))) == 2


async def test_a_run_is_found_by_its_beginning_or_as_the_last(database: Database) -> None:
    first, _, _ = await created(database, 0)
    last, _, _ = await created(database, 40_000_000)
    for text, expected in ((first.id, first), (first.id[:8], first), ("last", last)):
        assert await database.read(lambda tx, text=text: store.find(tx, text)) == expected.id  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "0", "zzz", "ZZZ", "%", "_", "~", "0123456789abcdefg"])
async def test_what_fits_no_or_several_runs_is_an_error(database: Database, text: str) -> None:
    await created(database, 0)
    await created(database, 1)
    with pytest.raises((NotFound, Conflict)):
        await database.read(lambda tx: store.find(tx, text))


async def test_an_empty_store_has_no_last_and_no_named_run(database: Database) -> None:
    with pytest.raises(NotFound, match="no run yet"):
        await database.read(lambda tx: store.find(tx, "last"))
    with pytest.raises(NotFound, match="qd runs"):
        await database.read(lambda tx: store.get(tx, "0" * 16))


async def test_pages_go_from_new_to_old_and_filter(database: Database) -> None:
    made = [
        (await created(database, number, origin="trace" if number % 2 else "run"))[0].id
        for number in range(5)
    ]

    async def page(**fields: Any) -> list[str]:
        which = store.RunFilter(**fields)
        return [run.id for run in await database.read(lambda tx: store.page(tx, which))]

    newest = made[::-1]
    assert await page() == newest
    assert await page(limit=2) == newest[:2]
    assert await page(limit=2, before=newest[1]) == newest[2:4]
    assert await page(before=newest[4]) == []
    assert await page(origin="trace") == [newest[1], newest[3]]
    assert await page(state=RunState.ENDED) == []
    assert await page(state=RunState.PENDING, origin="run", before=newest[0]) == newest[2::2]


async def test_an_idempotency_key_belongs_to_one_run(database: Database) -> None:
    run, _, _ = await created(database, 0, key="k")
    await created(database, 1, key=None)
    await created(database, 2, key=None)
    assert await database.read(lambda tx: store.by_key(tx, "k")) == run.id
    assert await database.read(lambda tx: store.by_key(tx, "other")) is None
    with pytest.raises(StaleWrite):
        await created(database, 3, key="k")
    assert len(await database.read(lambda tx: store.page(tx, store.RunFilter()))) == 3


# ---- attempts


async def test_a_saved_attempt_comes_back_with_the_next_version(database: Database) -> None:
    _, _, (attempt,) = await created(database)
    event = said(attempt.id, Phase.RUNNING, started_at=NOW, signal=3, error="é")
    after, due = await changed(database, attempt.id, event)
    assert await seen(database, attempt.id) == msgspec.structs.replace(after, version=2)
    assert due == {attempt.run}


async def test_a_write_on_an_old_version_is_stale_and_changes_nothing(database: Database) -> None:
    _, _, attempts = await created(database, tasks=2)
    await changed(database, attempts[0].id, said(attempts[0].id, Phase.RUNNING))
    after = [(a, step(a, said(a.id, Phase.ENDED), NOW)) for a in attempts]
    with pytest.raises(StaleWrite):
        await database.write(lambda tx: store.save_attempts(tx, after, NOW))
    assert (await seen(database, attempts[0].id)).state is AttemptState.RUNNING
    assert await seen(database, attempts[1].id) == attempts[1]


async def test_what_did_not_change_is_not_written(database: Database) -> None:
    _, _, (attempt,) = await created(database)
    assert await changed(database, attempt.id) == (attempt, set())
    assert (await seen(database, attempt.id)).version == 1


async def test_a_run_is_due_until_its_changed_attempts_were_stepped(database: Database) -> None:
    run, tasks, attempts = await created(database, tasks=3)
    assert await database.read(lambda tx: step_store.due_runs(tx, 10)) == []
    for attempt in attempts[:2]:
        await changed(database, attempt.id, said(attempt.id, Phase.ENDED, exit_code=1))
    assert await database.read(lambda tx: step_store.due_runs(tx, 10)) == [run.id]
    fresh = await database.read(lambda tx: step_store.fresh(tx, run.id, 10))
    assert [task for task, _ in fresh] == tasks[:2]
    assert ids(attempt for _, attempt in fresh) == ids(attempts[:2])
    assert len(await database.read(lambda tx: step_store.fresh(tx, run.id, 1))) == 1
    moved = [
        msgspec.structs.replace(
            task,
            state=TaskState.ENDED,
            outcome=Outcome.FAILED,
            exit_code=attempt.snapshot.exit_code,
        )
        for task, attempt in fresh
        if attempt.snapshot is not None
    ]
    running = msgspec.structs.replace(
        run, state=RunState.RUNNING, started_at=NOW, counts=Counts(total=3, failed=2, queued=1)
    )
    after = await database.write(
        lambda tx: step_store.stepped(tx, running, moved, [a for _, a in fresh], more=False)
    )
    assert after == msgspec.structs.replace(running, version=2)
    assert await database.read(lambda tx: store.get(tx, run.id)) == msgspec.structs.replace(
        after, order=Order()
    )
    assert await database.read(lambda tx: step_store.due_runs(tx, 10)) == []
    assert await database.read(lambda tx: step_store.fresh(tx, run.id, 10)) == []
    newer = await database.read(lambda tx: store.tasks_of(tx, run.id, changed_after=1))
    assert newer == [msgspec.structs.replace(task, changed=2) for task in moved]
    later = await database.read(lambda tx: store.attempts_of(tx, run.id, changed_after=1))
    assert ids(later) == ids(attempts[:2])
    with pytest.raises(StaleWrite):
        await database.write(lambda tx: step_store.stepped(tx, running, [], [], more=False))


async def test_a_step_may_leave_its_run_due(database: Database) -> None:
    run, _, _ = await created(database)
    await database.write(lambda tx: step_store.stepped(tx, run, [], [], more=True))
    assert await database.read(lambda tx: step_store.due_runs(tx, 10)) == [run.id]


async def test_an_ended_task_is_never_written_again(database: Database) -> None:
    run, (task,), _ = await created(database)
    ended = msgspec.structs.replace(task, state=TaskState.ENDED, outcome=Outcome.LOST)
    after = await database.write(lambda tx: step_store.stepped(tx, run, [ended], [], more=False))
    other = msgspec.structs.replace(task, state=TaskState.RUNNING)
    await database.write(lambda tx: step_store.stepped(tx, after, [other], [], more=False))
    (kept,) = await database.read(lambda tx: store.tasks_of(tx, run.id))
    assert kept == msgspec.structs.replace(ended, changed=2)


async def test_an_offer_is_recorded_and_may_be_withdrawn_while_nothing_was_reported(
    database: Database,
) -> None:
    _, _, attempts = await created(database, tasks=2)
    both = ids(attempts)
    offered = await database.write(lambda tx: store.offer(tx, both))
    assert offered == dict.fromkeys(both, 2)
    await changed(database, both[0], said(both[0], Phase.ACCEPTED))
    await database.write(lambda tx: store.withdraw(tx, offered))
    assert [(await seen(database, id)).offered for id in both] == [True, False]


async def test_an_offer_made_anew_by_another_server_can_not_be_withdrawn_by_the_first(
    database: Database,
) -> None:
    _, _, attempts = await created(database, tasks=1)
    (id,) = ids(attempts)
    first = await database.write(lambda tx: store.offer(tx, [id]))
    second = await database.write(lambda tx: store.offer(tx, [id]))
    await database.write(lambda tx: store.withdraw(tx, first))
    assert (await seen(database, id)).offered
    await database.write(lambda tx: store.withdraw(tx, second))
    assert not (await seen(database, id)).offered


async def test_a_run_that_another_server_just_wrote_is_decided_again(database: Database) -> None:
    run, _, _ = await created(database, key="k")
    other = msgspec.structs.replace(run, id="0" * 16)
    for again, key in ((run, None), (other, "k")):
        with pytest.raises(StaleWrite):
            await database.write(
                partial(store.create, run=again, run_tasks=[], run_attempts=[], key=key)
            )


async def test_offers_expire_only_unsent_and_after_their_time(database: Database) -> None:
    _, _, attempts = await created(database, tasks=3)
    sent, stopped, waiting = ids(attempts)
    await database.write(lambda tx: store.offer(tx, [sent]))
    await changed(database, stopped, StopAsked(signal=15))
    early = NOW - timedelta(microseconds=1)
    assert await database.read(lambda tx: store.expired_offers(tx, early)) == []
    assert ids(await database.read(lambda tx: store.expired_offers(tx, NOW))) == [waiting]


async def test_an_ended_attempt_is_sealed_purged_and_released_in_turn(database: Database) -> None:
    _, _, attempts = await created(database, tasks=2)
    loud, quiet = ids(attempts)

    async def to_seal(skip: Iterable[str] = ()) -> list[str]:
        return ids(await database.read(lambda tx: store.to_seal(tx, 10, skip)))

    async def to_purge(before: datetime = NOW) -> list[str]:
        return ids(await database.read(lambda tx: store.to_purge(tx, before, 10)))

    assert await to_seal() == []
    await changed(database, loud, said(loud, Phase.ENDED, output=5))
    await changed(database, quiet, said(quiet, Phase.ENDED))
    assert await to_seal() == [loud, quiet] and await to_seal([loud]) == [quiet]
    for id in (loud, quiet):
        await changed(database, id, Sealed())
    assert await to_seal() == []
    assert await to_purge() == [loud], "without output nothing lies in the cache"
    assert await to_purge(NOW - timedelta(microseconds=1)) == []
    await database.write(lambda tx: store.mark_purged(tx, [loud]))
    assert await to_purge() == []
    await changed(database, quiet, Dropped())
    open = await database.read(lambda tx: store.open_attempts(tx, ["n0", "n1", "n2"]))
    assert {node: ids(rows) for node, rows in open.items()} == {"n0": [loud]}
    assert await database.read(store.nodes_with_open_attempts) == {"n0"}


async def test_more_attempts_than_one_statement_holds_are_all_found(database: Database) -> None:
    run, _, attempts = await created(database, tasks=rows.BATCH * 2 + 1)
    every = ids(attempts)
    assert ids((await database.read(lambda tx: store.attempts_by_id(tx, every))).values()) == every
    await database.write(lambda tx: store.offer(tx, every))
    offered = (await database.read(lambda tx: store.attempts_by_id(tx, every))).values()
    pairs = [(a, step(a, said(a.id, Phase.RUNNING), NOW)) for a in offered]
    due = await database.write(lambda tx: store.save_attempts(tx, pairs, NOW), bulk=True)
    assert due == {run.id}
    nodes = [attempt.node for attempt in attempts]
    open = await database.read(lambda tx: store.open_attempts(tx, nodes))
    assert len(open) == len(every)
    assert all(a.state is AttemptState.RUNNING for rows in open.values() for a in rows)


async def test_what_was_ended_before_it_was_sent_can_not_be_offered_any_more(
    database: Database,
) -> None:
    _, _, (attempt,) = await created(database)
    await changed(database, attempt.id, StopAsked(signal=15))
    await database.write(lambda tx: store.offer(tx, [attempt.id]))
    assert not (await seen(database, attempt.id)).offered


async def test_an_offer_makes_a_decision_on_the_row_before_it_stale(database: Database) -> None:
    _, _, (attempt,) = await created(database)
    ended = step(attempt, StopAsked(signal=15), NOW)
    await database.write(lambda tx: store.offer(tx, [attempt.id]))
    with pytest.raises(StaleWrite):
        await database.write(lambda tx: store.save_attempts(tx, [(attempt, ended)], NOW))


async def test_what_was_purged_stays_purged_when_the_node_drops_it(database: Database) -> None:
    _, _, (attempt,) = await created(database)
    await changed(database, attempt.id, said(attempt.id, Phase.ENDED, output=5), Sealed())
    await database.write(lambda tx: store.mark_purged(tx, [attempt.id]))
    await changed(database, attempt.id, Dropped(), now=NOW + timedelta(hours=1))
    late = NOW + timedelta(hours=2)
    assert await database.read(lambda tx: store.to_purge(tx, late, 10)) == []


async def test_logs_that_rest_are_left_out_however_many_they_are(database: Database) -> None:
    _, _, attempts = await created(database, tasks=rows.BATCH + 20)
    pairs = [(a, step(a, said(a.id, Phase.ENDED), NOW)) for a in attempts]
    await database.write(lambda tx: store.save_attempts(tx, pairs, NOW))
    every = ids(attempts)
    resting = [*every[: rows.BATCH + 10], *(f"x{number}" for number in range(70_000))]
    found = await database.read(lambda tx: store.to_seal(tx, 5, resting))
    assert [attempt.id for attempt in found] == every[rows.BATCH + 10 :][:5]
    assert await database.read(lambda tx: store.to_seal(tx, 5, [*every, *resting])) == []


async def test_texts_that_no_database_can_hold_are_made_plain(database: Database) -> None:
    run, _, _ = await created(database, title="a\0b" + "x" * 2000)
    kept = await database.read(lambda tx: store.get(tx, run.id))
    assert kept.title == "a\ufffdb" + "x" * 2000
    node = Node(id="n1", name="web", public_key="k", created_at=NOW)
    await database.write(lambda tx: node_store.enrol(tx, node))
    hostile = msgspec.structs.replace(node, session="s\0" * 100, full="no\0room")
    await database.write(lambda tx: node_store.save(tx, [hostile]))
    (found,) = await database.read(node_store.every)
    assert (found.session, found.full) == ("s\ufffd" * 32, "no\ufffdroom")
    await database.write(lambda tx: node_store.reject(tx, "s\0" * 300, b"\0", "e\0", NOW))


async def test_texts_sort_by_code_point(database: Database) -> None:
    names = ["B", "_", "a", "ä", "Z", "-", "0", "é"]
    for name in names:
        node = Node(id=f"n{ord(name)}", name=name, public_key=name, created_at=NOW)
        await database.write(lambda tx, node=node: node_store.enrol(tx, node))  # type: ignore[misc]
    found = await database.read(node_store.every)
    assert [node.name for node in found] == sorted(names)
