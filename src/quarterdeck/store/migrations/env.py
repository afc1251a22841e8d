"""Alembic's entry: runs the migrations on the engine that the caller put into the configuration."""

from alembic import context

from quarterdeck.store.migrate import in_turn
from quarterdeck.store.tables import metadata

with context.config.attributes["engine"].connect() as connection, in_turn(connection):
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
