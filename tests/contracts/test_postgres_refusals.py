"""What PostgreSQL refuses is a sentence that never holds the password."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from quarterdeck.errors import Invalid, QuarterdeckError, Unavailable
from quarterdeck.store import postgres as module
from quarterdeck.store import run as store
from quarterdeck.store.postgres import PostgresDatabase
from tests.contracts.postgres_server import SECRET, PostgresServer
from tests.contracts.postgres_units import count_up, note, noted, opened

pytestmark = pytest.mark.anyio


async def refusal(url: str) -> QuarterdeckError:
    """The sentence of a start that fails; it must never hold the password."""
    with pytest.raises(QuarterdeckError) as caught:
        async with opened(url):
            pass
    error = caught.value
    assert SECRET not in error.message and "%40" not in error.message
    assert error.message.endswith(".") and "\n" not in error.message
    return error


async def test_a_server_that_is_not_there_is_said(server: PostgresServer) -> None:
    away = await refusal(f"postgresql://qd:{SECRET.replace('@', '%40')}@127.0.0.1:1/qd")
    assert "127.0.0.1:1/qd can't be reached" in away.message and "check" in away.message
    nowhere = await refusal("postgresql://u@no-such-host.invalid/qd")
    assert "no-such-host.invalid:5432/qd can't be reached" in nowhere.message


async def test_a_wrong_password_and_a_wrong_name_are_said(server: PostgresServer) -> None:
    assert "refused the password" in (await refusal(server.url("postgres", password="x"))).message
    assert "refused the password" in (await refusal(server.url("postgres", user="nobody"))).message
    missing = await refusal(server.url("not_there"))
    assert '"not_there" does not exist' in missing.message and "create it" in missing.message


async def test_a_user_who_may_not_write_is_said(server: PostgresServer) -> None:
    url = server.fresh()
    name = url.rpartition("/")[2]
    with server.admin(name) as admin:
        admin.execute(f"CREATE USER reader PASSWORD '{SECRET}'")
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    error = await refusal(server.url(name, user="reader"))
    assert "permission denied" in error.message and "right" in error.message
    async with opened(url):
        pass
    with server.admin(name) as admin:
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    async with opened(server.url(name, user="reader")) as (made,):
        assert await made.read(noted) == []
        with pytest.raises(Unavailable, match="permission denied"):
            await made.write(note("x"))
    with server.admin() as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with opened(url) as (made,):
        with pytest.raises(Unavailable, match="read-only"):
            await made.write(note("x"))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h:{SECRET}/x",
        f"postgresql://u:pass%zz{SECRET}@h/x",
        f"postgresql://h/x?unknown={SECRET}",
        f"postgresql://u:12/{SECRET}@h/x",
    ],
)
def test_an_address_that_can_not_be_parsed_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Invalid, match="postgresql://USER") as caught:
        PostgresDatabase(url)
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


async def test_a_lock_that_another_session_keeps_is_said_and_harms_one_unit(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_MS", 100)
    url = server.fresh()
    async with opened(url) as (made,):
        await made.write(note("kept"))
        with server.admin(url.rpartition("/")[2]) as admin, admin.transaction():
            admin.execute("UPDATE rejected SET at = 1")
            blocked, other = await asyncio.gather(
                made.write(count_up), made.write(note("other")), return_exceptions=True
            )
            assert isinstance(blocked, Unavailable) and "locked" in blocked.message
            assert other == "other"
        assert await made.write(count_up) >= 1


async def test_a_value_that_postgres_can_not_hold_is_the_callers_mistake(
    server: PostgresServer,
) -> None:
    async with opened(server.fresh()) as (made,):
        with pytest.raises(Invalid, match="can't be recorded"):
            await made.read(lambda tx: store.by_key(tx, "a\0b"))
        with pytest.raises(Invalid, match="can't be recorded"):
            await made.write(note("x" * 300))


async def test_an_answer_is_on_disk_also_where_the_default_is_less(server: PostgresServer) -> None:
    url = server.fresh()
    with server.admin() as admin:
        admin.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    async with opened(url) as (made,):
        assert await made.write(lambda tx: tx.scalar(text("SHOW synchronous_commit"))) == "on"
