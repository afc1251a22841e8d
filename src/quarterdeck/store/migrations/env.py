"""Alembic's entry: runs the migrations on the engine that the caller put into the configuration.

On PostgreSQL the servers that start at the same moment take turns: an advisory lock of the session
is held around all of it. SQLite's own lock does the same for its file.
"""

from alembic import context
from sqlalchemy import text

from quarterdeck.store.tables import metadata

# any number that other programs in the same database are unlikely to use
LOCK = 7333_0001
PATIENCE_MS = 120_000

with context.config.attributes["engine"].connect() as connection:
    shared = connection.dialect.name == "postgresql"
    if shared:
        connection.execute(text(f"SET LOCAL lock_timeout = {PATIENCE_MS}"))
        connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
        connection.commit()  # what follows sees what the one before has done
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transaction_per_migration=True,
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    finally:
        if shared and not connection.invalidated:
            connection.rollback()
            connection.execute(text(f"SELECT pg_advisory_unlock({LOCK})"))
            connection.commit()
