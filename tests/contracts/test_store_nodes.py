"""What people decide about nodes, and what heartbeats say: neither overwrites the other."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest

from quarterdeck.core.model import Node
from quarterdeck.store import node as store
from quarterdeck.store.base import Database, StaleWrite

pytestmark = pytest.mark.anyio

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


def node(id: str = "n1", **more: object) -> Node:
    plain = Node(id=id, name="web1", own_name="web1", public_key="U" + id, created_at=NOW)
    return msgspec.structs.replace(plain, **more)


async def test_a_decision_stays_when_a_beat_that_knew_nothing_of_it_is_written(
    database: Database,
) -> None:
    fresh = await database.write(partial(store.enrol, node=node(approved=False)))
    assert fresh == node(approved=False)
    wish = msgspec.structs.replace(
        fresh, given_name="front", server_labels={"dc": "ams"}, draining=True, approved=True
    )
    await database.write(partial(store.decide, before=fresh, after=wish))
    beaten = msgspec.structs.replace(fresh, own_name="web9", labels={"dc": "fra", "env": "prod"})
    await database.write(partial(store.save, changed=[beaten]))
    (found,) = await database.read(store.every)
    assert (found.name, found.own_name, found.given_name) == ("front", "web9", "front")
    assert found.labels == {"dc": "fra", "env": "prod"}
    assert found.server_labels == {"dc": "ams"}
    assert (found.draining, found.approved, found.decision) == (True, True, 1)
    assert await database.read(store.decisions) == {"n1": 1}


async def test_of_two_decisions_at_once_the_second_must_look_again(database: Database) -> None:
    fresh = await database.write(partial(store.enrol, node=node()))
    drained = msgspec.structs.replace(fresh, draining=True)
    named = msgspec.structs.replace(fresh, given_name="other")
    await database.write(partial(store.decide, before=fresh, after=drained))
    with pytest.raises(StaleWrite):
        await database.write(partial(store.decide, before=fresh, after=named))
    (found,) = await database.read(store.every)
    assert (found.draining, found.given_name, found.decision) == (True, "", 1)


async def test_nothing_is_decided_about_a_removed_node(database: Database) -> None:
    fresh = await database.write(partial(store.enrol, node=node()))
    assert await database.write(partial(store.remove, node_id="n1", now=NOW))
    with pytest.raises(StaleWrite):
        await database.write(partial(store.decide, before=fresh, after=fresh))
    assert await database.read(store.decisions) == {}


async def test_removed_nodes_are_read_anew_only_when_there_are_more_of_them(
    database: Database,
) -> None:
    assert await database.read(store.removed) == {}
    assert await database.read(partial(store.removed, known=0)) is None
    gone = await database.write(partial(store.enrol, node=node()))
    await database.write(partial(store.enrol, node=node("n2")))
    await database.write(partial(store.remove, node_id=gone.id, now=NOW))
    found = await database.read(partial(store.removed, known=0))
    assert found == {gone.id: (gone.public_key, NOW)}
    assert await database.read(partial(store.removed, known=1)) is None
