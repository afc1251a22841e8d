"""Signals to attempts, and the run that a run was made from"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.String(length=16).with_variant(sa.String(length=16, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("attempts", sa.Column("signals", sa.LargeBinary(), nullable=True))
    op.add_column("runs", sa.Column("parent", ID, nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "parent")
    op.drop_column("attempts", "signals")
