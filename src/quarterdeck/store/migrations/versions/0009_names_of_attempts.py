"""Attempts know the name of their node: a task may be tried on several"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    name = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
    op.add_column("attempts", sa.Column("node_name", name, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("attempts", "node_name")
