"""Removed nodes are counted without a look at the others"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    removed = sa.text("removed_at IS NOT NULL")
    op.create_index(
        "ix_nodes_removed",
        "nodes",
        ["removed_at"],
        sqlite_where=removed,
        postgresql_where=removed,
    )


def downgrade() -> None:
    op.drop_index("ix_nodes_removed", table_name="nodes")
