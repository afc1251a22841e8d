"""Tokens have a scope and know when they were used last; runs are found by namespace"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    scope = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")
    op.add_column("tokens", sa.Column("scope", scope, nullable=False, server_default=""))
    op.add_column("tokens", sa.Column("last_used", sa.BigInteger()))
    op.add_column(
        "tokens", sa.Column("minted", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_index("ix_runs_namespace", "runs", ["namespace", "id"])


def downgrade() -> None:
    op.drop_index("ix_runs_namespace", table_name="runs")
    with op.batch_alter_table("tokens") as changed:
        for name in ("minted", "last_used", "scope"):
            changed.drop_column(name)
