"""A server that stops dead inside a transaction on PostgreSQL keeps others only a moment."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text

import quarterdeck.store.postgres as module
from quarterdeck.control.lease import DUTIES, Leases
from quarterdeck.core.lease import MEMBER
from quarterdeck.errors import Unavailable
from quarterdeck.store.base import Tx
from quarterdeck.store.tables import rejected
from quarterdeck.telemetry import Telemetry
from tests.contracts.postgres_server import PostgresServer
from tests.contracts.postgres_units import DEADLINE_S, count_up, note, opened

pytestmark = pytest.mark.anyio


async def test_a_server_frozen_inside_a_transaction_holds_its_locks_only_shortly(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_MS", 1000)
    url = server.fresh()
    frozen, thaw = threading.Event(), threading.Event()
    tries: list[str] = []

    def freeze(tx: Tx) -> int:
        tries.append("try")
        made = count_up(tx)
        if len(tries) == 1:
            frozen.set()
            thaw.wait(DEADLINE_S)
        return made

    async with opened(url, url) as (dead, living):
        await living.write(note("counter"))
        stuck = asyncio.create_task(dead.write(freeze))
        assert await asyncio.to_thread(frozen.wait, DEADLINE_S)
        began = time.monotonic()
        assert await living.write(count_up) == 1
        took_s = time.monotonic() - began
        thaw.set()
        assert await stuck == 2, "what it did before was undone, and is done again"
        assert await living.read(lambda tx: tx.scalar(select(rejected.c.at))) == 2
    assert took_s < module.LOCK_TIMEOUT_MS / 1000 / 2, "it would wait for the lock for ever"


async def test_only_sessions_that_write_end_when_they_are_idle_in_a_transaction(
    server: PostgresServer,
) -> None:
    async with opened(server.fresh()) as (made,):
        asked = text("SHOW idle_in_transaction_session_timeout")
        assert await made.write(lambda tx: tx.scalar(asked)) == "5s"
        assert await made.read(lambda tx: tx.scalar(asked)) == "0"
        asked = text("SHOW tcp_user_timeout")
        assert await made.write(lambda tx: tx.scalar(asked)) == "20000"


class Now:
    """The real clock."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)

    def monotonic(self) -> float:
        return time.monotonic()


async def test_a_duty_whose_row_is_locked_costs_no_server_its_own_membership(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_MS", 200)
    url = server.fresh()
    async with opened(url, url) as (one, two):
        leases = Leases(database=one, clock=Now(), telemetry=Telemetry(), server="one")
        other = Leases(database=two, clock=Now(), telemetry=Telemetry(), server="two")
        await leases.round()
        with server.admin(url.rpartition("/")[2]) as admin, admin.transaction():
            admin.execute("UPDATE leases SET beat = beat WHERE duty = %s", (DUTIES[0],))
            for _ in range(2):
                with pytest.raises(Unavailable, match="locked"):
                    await leases.round()
                await other.round()
                assert leases.holds(MEMBER + "one") and other.servers() == ["one", "two"]
        await leases.round()
        assert all(leases.holds(duty) for duty in DUTIES)
