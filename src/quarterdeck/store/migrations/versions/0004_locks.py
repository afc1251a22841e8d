"""Locks and their claims"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "locks",
        sa.Column("namespace", _text(64), nullable=False),
        sa.Column("name", _text(128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("next_ticket", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", name=op.f("pk_locks")),
    )
    op.create_table(
        "claims",
        sa.Column("id", _text(64), nullable=False),
        sa.Column("namespace", _text(64), nullable=False),
        sa.Column("name", _text(128), nullable=False),
        sa.Column("ticket", sa.BigInteger(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("holding", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("leaving", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=True),
        sa.Column("by", _text(64), nullable=False),
        sa.Column("who", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
        sa.UniqueConstraint(
            "namespace", "name", "ticket", name=op.f("uq_claims_namespace_name_ticket")
        ),
    )


def downgrade() -> None:
    op.drop_table("claims")
    op.drop_table("locks")
