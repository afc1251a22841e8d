"""Tokens on every database: namespaces, scopes, uses, and those that are forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from quarterdeck.control.uses import EVERY_S, KEPT_FOR, TokenUses
from quarterdeck.core.access import spell
from quarterdeck.errors import Denied, NotFound
from quarterdeck.store import access as store
from quarterdeck.store.base import Database, Tx

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
DAY = timedelta(days=1)


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - NOW).total_seconds()


def text(number: int, kind: str = "watch") -> str:
    return spell(kind, f"{number:016d}", bytes(16))


async def fill(database: Database) -> None:
    def write(tx: Tx) -> None:
        store.register(tx, text(1, "api"), "default", NOW)
        store.register(tx, text(2), "team", NOW, NOW + DAY, scope="web-*")
        store.register(tx, text(3), "team", NOW, NOW + DAY, scope="x", minted=True)

    await database.write(write)


async def test_what_was_written_is_read_again_by_namespace(database: Database) -> None:
    await fill(database)

    async def ids(namespace: str, *, minted: bool = False) -> list[int]:
        found = await database.read(partial(store.every, namespace=namespace, minted=minted))
        return [int(token.id) for token in found]

    assert await ids("*") == [1, 2]
    assert await ids("*", minted=True) == [1, 2, 3]
    assert (await ids("team"), await ids("other")) == ([2], [])
    kept = await database.read(partial(store.get, token_id=text(2)[9:25], namespace="team"))
    assert (kept.scope, kept.minted, kept.last_used) == ("web-*", False, None)
    who = await database.read(partial(store.principal, token=text(2), now=NOW))
    assert (who.namespace, who.scope, who.covers("web-1"), who.covers("db")) == (
        "team",
        "web-*",
        True,
        False,
    )
    with pytest.raises(NotFound):
        await database.read(partial(store.get, token_id=kept.id, namespace="other"))
    with pytest.raises(NotFound):
        await database.write(partial(store.revoke, token_id=kept.id, now=NOW, namespace="other"))
    assert (await database.read(partial(store.get, token_id=kept.id))).revoked_at is None


async def test_a_token_of_the_file_is_for_every_namespace_also_when_it_was_not(
    database: Database,
) -> None:
    await fill(database)
    for number in (1, 4):
        for _ in range(2):
            await database.write(partial(store.take_over, text=text(number, "api"), now=NOW))
        who = await database.read(partial(store.principal, token=text(number, "api"), now=NOW))
        assert (who.namespace, who.home, who.sees("team")) == ("*", "default", True)


async def test_only_what_was_neither_revoked_nor_has_expired_counts(database: Database) -> None:
    await fill(database)
    ids = [f"{number:016d}" for number in range(1, 1500)]
    assert await database.read(partial(store.counting, ids=ids, now=NOW)) == set(ids[:3])
    await database.write(partial(store.revoke, token_id=ids[0], now=NOW))
    last = NOW + DAY - timedelta(microseconds=1)
    assert await database.read(partial(store.counting, ids=ids, now=last)) == set(ids[1:3])
    assert await database.read(partial(store.counting, ids=ids, now=NOW + DAY)) == set()


async def test_a_minted_token_is_forgotten_a_day_after_its_end(database: Database) -> None:
    await fill(database)
    for after, known in ((DAY + KEPT_FOR, True), (DAY + KEPT_FOR + timedelta(seconds=1), False)):
        before = NOW + after - KEPT_FOR
        await database.write(partial(store.forget_minted, before=before))
        found = await database.read(partial(store.every, minted=True))
        assert [token.id[-1] for token in found] == (["1", "2", "3"] if known else ["1", "2"])
    with pytest.raises(Denied, match="not valid"):
        await database.read(partial(store.principal, token=text(3), now=NOW))


async def test_uses_are_written_at_once_and_then_once_a_minute(database: Database) -> None:
    await fill(database)
    clock = HandClock()
    uses = TokenUses(database=database, clock=clock)
    id = text(1, "api")[7:23]

    async def last() -> datetime | None:
        return (await database.read(partial(store.get, token_id=id))).last_used

    await uses.write()
    assert await last() is None
    uses.note(id)
    uses.note("0" * 16)  # it was deleted meanwhile
    await uses.write()
    assert await last() == NOW
    clock.at += timedelta(seconds=EVERY_S - 1)
    uses.note(id)
    await uses.write()
    assert await last() == NOW
    clock.at += timedelta(seconds=1)
    await uses.write()
    assert await last() == clock.at - timedelta(seconds=1)
    # another server that saw it earlier takes nothing back
    await database.write(partial(store.mark_used, uses={id: NOW}))
    assert await last() == clock.at - timedelta(seconds=1)
