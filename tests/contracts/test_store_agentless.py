"""Agentless nodes are kept alike by every database."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest

from quarterdeck.core.agentless import Agentless
from quarterdeck.core.model import Node
from quarterdeck.errors import Denied
from quarterdeck.store import agentless as store
from quarterdeck.store import node as node_store
from quarterdeck.store.base import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HUB = Node(id="hub", name="hub", public_key="hub", created_at=NOW)
FAR = Node(id="far", name="far", public_key="far", created_at=NOW)
OTHER = Node(id="other", name="other", public_key="other", created_at=NOW)
WANTED = Agentless(id="1", via="hub", name="web1", place="u@h:22", created_at=NOW, created_by="me")


async def test_one_that_is_ordered_again_keeps_its_id_until_its_node_was_removed(
    database: Database,
) -> None:
    for node in (HUB, FAR, OTHER):
        await database.write(partial(node_store.enrol, node=node))
    assert await database.write(lambda tx: store.order(tx, WANTED)) == WANTED
    bound = await database.write(lambda tx: store.bind(tx, "1", "far"))
    assert bound.node == "far" and await database.read(store.every) == [bound]
    again = msgspec.structs.replace(WANTED, id="2", name="web2", accept_new=True)
    changed = await database.write(lambda tx: store.order(tx, again))
    assert (changed.id, changed.name, changed.node) == ("1", "web2", "far")
    assert await database.write(lambda tx: store.bind(tx, "1", "far")) == changed
    with pytest.raises(Denied):
        await database.write(lambda tx: store.bind(tx, "1", "other"))
    await database.write(lambda tx: node_store.remove(tx, "far", NOW))
    assert await database.read(store.every) == []
    fresh = await database.write(lambda tx: store.order(tx, again))
    assert (fresh.id, fresh.node) == ("2", None)
    assert await database.read(store.every) == [fresh]
