"""What people decide about nodes, limits of join tokens, the state of a node in its task"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    exact = sa.String(length, collation="C")
    return sa.String(length).with_variant(exact, "postgresql")


def _added() -> dict[str, tuple[sa.Column[Any], ...]]:
    return {
        "nodes": (
            sa.Column("given_name", _text(255), nullable=False, server_default=""),
            sa.Column("server_labels", sa.LargeBinary()),
            sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.Column("approved", sa.Boolean(), nullable=False, server_default=sa.true()),
            sa.Column("decision", sa.Integer(), nullable=False, server_default="0"),
        ),
        "tokens": (
            sa.Column("approve", _text(8), nullable=False, server_default="auto"),
            sa.Column("uses", sa.Integer()),
            sa.Column("used", sa.Integer(), nullable=False, server_default="0"),
        ),
        "tasks": (sa.Column("node_state", _text(16), nullable=False, server_default=""),),
    }


def upgrade() -> None:
    for table, columns in _added().items():
        for column in columns:
            op.add_column(table, column)


def downgrade() -> None:
    for table, columns in _added().items():
        with op.batch_alter_table(table) as changed:
            for column in columns:
                changed.drop_column(column.name)
