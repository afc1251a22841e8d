"""Brings the schema up to date, with the same Alembic scripts for every database.

Scripts are named `NNNN_what.py` after their revision. An empty database gets the tables of the code
at once (docs/adr/0020), which are what the scripts lead to; one that is up to date is told by one
query. Neither imports Alembic (a third of a second of a start).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    inspect,
    text,
)

from quarterdeck.errors import Conflict
from quarterdeck.store.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"
# any number that other programs in the same database are unlikely to use
LOCK = 7333_0001
PATIENCE_MS = 120_000
# Alembic keeps what it is doing in a module; other processes are kept out by `in_turn`
_ONE_AT_A_TIME = threading.Lock()
# as Alembic makes it
_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


@contextmanager
def in_turn(connection: Connection) -> Iterator[None]:
    """Servers that start at the same moment change the schema one after the other: on PostgreSQL
    by an advisory lock of the session; SQLite's own lock does the same for its file."""
    if connection.dialect.name != "postgresql":
        yield
        return
    connection.execute(text(f"SET LOCAL lock_timeout = {PATIENCE_MS}"))
    connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
    connection.commit()  # what follows sees what the one before has done
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.rollback()
            connection.execute(text(f"SELECT pg_advisory_unlock({LOCK})"))
            connection.commit()


def configuration(engine: Engine) -> Config:
    """Alembic's configuration for an engine; its connection travels in `attributes`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["engine"] = engine
    return config


def upgrade(engine: Engine) -> None:
    """An empty database is made at once, any other gets every migration that it has not seen. Safe
    to call at every start.

    Raises Conflict for a database of a newer version.
    """
    current, newest = _current(engine), _newest()
    if current == newest:
        return
    if current is not None and current > newest:
        raise Conflict(
            "newer_database",
            f"The database was brought to schema {current} by a newer quarterdeck; this one knows "
            f"up to {newest}. Start the newer one, or restore a backup.",
        )
    if current is None and _made_at_once(engine, newest):
        return
    from alembic import command

    with _ONE_AT_A_TIME:
        command.upgrade(configuration(engine), "head")


def _made_at_once(engine: Engine, newest: str) -> bool:
    """Whether the database was empty; then it has all tables now."""
    with engine.connect() as connection, in_turn(connection), connection.begin():
        if inspect(connection).get_table_names():
            return False
        metadata.create_all(connection, checkfirst=False)  # a view of such a name is an error
        _VERSION.create(connection)
        connection.execute(_VERSION.insert().values(version_num=newest))
    return True


def check(engine: Engine) -> None:
    """Raises when the tables in code and the migrations differ."""
    from alembic import command

    with _ONE_AT_A_TIME:
        command.check(configuration(engine))


def _newest() -> str:
    return max(path.name.partition("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*.py"))


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
