"""Brings the schema up to date, with the same Alembic scripts for every database.

Scripts are named `NNNN_what.py` after their revision. A database that is up to date is told by one
query, without importing Alembic (a third of a second at every start of a server).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, inspect, text

from quarterdeck.errors import Conflict

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"
# Alembic keeps what it is doing in a module; other processes are kept out by migrations/env.py
_ONE_AT_A_TIME = threading.Lock()


def configuration(engine: Engine) -> Config:
    """Alembic's configuration for an engine; its connection travels in `attributes`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["engine"] = engine
    return config


def upgrade(engine: Engine) -> None:
    """Run every migration that the database has not seen. Safe to call at every start.

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
    from alembic import command

    with _ONE_AT_A_TIME:
        command.upgrade(configuration(engine), "head")


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
