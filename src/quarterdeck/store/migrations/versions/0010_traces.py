"""Traces: what senders told, and the pieces of what is kept until it is archived"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def upgrade() -> None:
    op.create_table(
        "traces",
        sa.Column("id", _text(16), nullable=False),
        sa.Column("namespace", _text(64), nullable=False),
        sa.Column("name", _text(100), nullable=False),
        sa.Column("sender", _text(255), nullable=False),
        sa.Column("key", _text(32), nullable=False),
        sa.Column("by", _text(64), nullable=False),
        _flag("kept"),
        sa.Column("state", _text(16), nullable=False),
        _flag("lost"),
        _flag("sealed"),
        _count("beat"),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
        sa.Column("start", sa.LargeBinary, nullable=False),
        _count("bytes_stdout"),
        _count("bytes_stderr"),
        _count("over_stdout"),
        _count("over_stderr"),
        _count("forgotten_stdout"),
        _count("forgotten_stderr"),
        sa.Column("dropped", sa.LargeBinary),
        sa.Column("ending", sa.LargeBinary),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("told", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_traces"),
        sa.ForeignKeyConstraint(["id"], ["runs.id"], name="fk_traces_id_runs"),
        sa.UniqueConstraint("namespace", "key", name="uq_traces_namespace_key"),
    )
    op.create_index("ix_traces_name", "traces", ["namespace", "name", "id"])
    opened, unsealed = sa.text("state = 'open' AND NOT lost"), sa.text("NOT sealed")
    op.create_index(
        "ix_traces_open", "traces", ["state"], sqlite_where=opened, postgresql_where=opened
    )
    op.create_index(
        "ix_traces_over",
        "traces",
        ["kept", "heard_at"],
        sqlite_where=unsealed,
        postgresql_where=unsealed,
    )
    op.create_table(
        "trace_pieces",
        sa.Column("trace", _text(16), nullable=False),
        sa.Column("stream", _text(8), nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("times", sa.LargeBinary, nullable=False),
        sa.Column("object", _text(255)),
        sa.Column("inline", sa.LargeBinary),
        sa.PrimaryKeyConstraint("trace", "stream", "start", name="pk_trace_pieces"),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name="fk_trace_pieces_trace_traces"),
    )


def downgrade() -> None:
    op.drop_table("trace_pieces")
    op.drop_table("traces")
