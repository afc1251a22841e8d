"""Agentless nodes"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    exact = sa.String(length, collation="C")
    return sa.String(length).with_variant(exact, "postgresql")


def upgrade() -> None:
    op.create_table(
        "agentless",
        sa.Column("id", _text(16), nullable=False),
        sa.Column("via", _text(64), nullable=False),
        sa.Column("place", _text(400), nullable=False),
        sa.Column("node", _text(64), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["via"], ["nodes.id"], name=op.f("fk_agentless_via_nodes")),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name=op.f("fk_agentless_node_nodes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agentless")),
        sa.UniqueConstraint("node", name=op.f("uq_agentless_node")),
        sa.UniqueConstraint("via", "place", name=op.f("uq_agentless_via_place")),
    )
    op.create_index(op.f("ix_agentless_via"), "agentless", ["via"])


def downgrade() -> None:
    op.drop_table("agentless")
