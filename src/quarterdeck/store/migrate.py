"""Brings the schema up to date, with the same Alembic scripts for every database."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine


def configuration(engine: Engine) -> Config:
    """Alembic's configuration for an engine; its connection travels in `attributes`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = engine
    return config


def upgrade(engine: Engine) -> None:
    """Run every migration that the database has not seen. Safe to call at every start."""
    command.upgrade(configuration(engine), "head")


def check(engine: Engine) -> None:
    """Raises when the tables in code and the migrations differ."""
    command.check(configuration(engine))
