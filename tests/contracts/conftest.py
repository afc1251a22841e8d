"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from quarterdeck.store.base import Database
from tests.contracts.backends import BACKENDS, session
from tests.contracts.fabric_place import MemoryPlace, Place, opened
from tests.contracts.fabric_server import Harbour, harbour
from tests.contracts.postgres_server import PostgresServer, needed, programs, serving

FABRICS: dict[str, Callable[[Path], Place]] = {
    "nats": Harbour,
    "memory": lambda _: MemoryPlace(),
}


@pytest.fixture(params=FABRICS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A fabric of each kind, and whoever joins."""
    made = FABRICS[request.param](tmp_path)
    async with opened(made):
        yield made


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Harbour]:
    """A nats-server of its own, with an authority and whoever joins."""
    async with harbour(tmp_path) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def postgres(request: pytest.FixtureRequest) -> Iterator[None]:
    """The PostgreSQL of the session, when a chosen test needs it (its name says so) and it can be.

    For all tests, so that it is there before the processes of the first test are counted.
    """
    wanted = any("postgresql" in item.name for item in request.session.items)
    if not wanted or programs() is None:
        yield
        return
    with serving() as server:
        session.append(server)
        yield
        session.clear()


@pytest.fixture(params=BACKENDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty store of each kind, started."""
    if request.param == "postgresql":
        needed()
        session[0].prepare(tmp_path)
    made = BACKENDS[request.param](tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(params=["postgresql"])  # the name that has the session's server started
def server() -> PostgresServer:
    """The PostgreSQL of the session."""
    needed()
    return session[0]
