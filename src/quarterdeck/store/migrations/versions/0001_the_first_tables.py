"""The first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> TypeEngine[str]:
    """Text in the order of its code points, as SQLite has it."""
    plain = sa.Text() if length is None else sa.String(length)
    exact = sa.Text(collation="C") if length is None else sa.String(length, collation="C")
    return plain.with_variant(exact, "postgresql")


def upgrade() -> None:
    _create_nodes()
    _create_orders()
    _create_rejected()
    _create_tokens()
    _create_runs()
    _create_tasks()
    _create_attempts()
    _create_logs()


def downgrade() -> None:
    op.drop_table("logs")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_attempts_unoffered",
            sqlite_where=sa.text("NOT offered AND NOT released"),
            postgresql_where=sa.text("NOT offered AND NOT released"),
        )
        batch_op.drop_index(
            "ix_attempts_to_seal",
            sqlite_where=sa.text("ended AND NOT sealed"),
            postgresql_where=sa.text("ended AND NOT sealed"),
        )
        batch_op.drop_index(
            "ix_attempts_to_purge",
            sqlite_where=sa.text("sealed AND NOT purged"),
            postgresql_where=sa.text("sealed AND NOT purged"),
        )
        batch_op.drop_index(batch_op.f("ix_attempts_run"))
        batch_op.drop_index(
            "ix_attempts_open",
            sqlite_where=sa.text("NOT released"),
            postgresql_where=sa.text("NOT released"),
        )
        batch_op.drop_index(
            "ix_attempts_fresh", sqlite_where=sa.text("fresh"), postgresql_where=sa.text("fresh")
        )

    op.drop_table("attempts")
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_index("ix_tasks_run_changed")

    op.drop_table("tasks")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_runs_due", sqlite_where=sa.text("due"), postgresql_where=sa.text("due")
        )

    op.drop_table("runs")
    op.drop_table("tokens")
    op.drop_table("rejected")
    op.drop_table("orders")
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_nodes_name"))

    op.drop_table("nodes")


def _create_nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("public_key", _text(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.LargeBinary(), nullable=False),
        sa.Column("session", _text(64), server_default="", nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=True),
        sa.Column("quarantined", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.Column("facts", sa.LargeBinary(), nullable=False),
        sa.Column("load", sa.LargeBinary(), nullable=False),
        sa.Column("full", _text(), server_default="", nullable=False),
        sa.Column("unknown", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
        sa.UniqueConstraint("public_key", name=op.f("uq_nodes_public_key")),
    )
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_nodes_name"), ["name"], unique=False)


def _create_orders() -> None:
    op.create_table(
        "orders",
        sa.Column("hash", _text(64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_orders")),
    )


def _create_rejected() -> None:
    op.create_table(
        "rejected",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("subject", _text(255), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("error", _text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejected")),
    )


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", _text(32), nullable=False),
        sa.Column("kind", _text(16), nullable=False),
        sa.Column("namespace", _text(64), nullable=False),
        sa.Column("secret_hash", _text(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", _text(16), nullable=False),
        sa.Column("namespace", _text(64), nullable=False),
        sa.Column("origin", _text(16), nullable=False),
        sa.Column("title", _text(), nullable=False),
        sa.Column("target", _text(), nullable=False),
        sa.Column("order_hash", _text(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", _text(64), nullable=False),
        sa.Column("state", _text(16), nullable=False),
        sa.Column("outcome", _text(16), nullable=True),
        sa.Column("stop_asked", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("due", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("idempotency_key", _text(160), nullable=True),
        sa.ForeignKeyConstraint(
            ["order_hash"], ["orders.hash"], name=op.f("fk_runs_order_hash_orders")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_runs_idempotency_key")),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_runs_due",
            ["due"],
            unique=False,
            sqlite_where=sa.text("due"),
            postgresql_where=sa.text("due"),
        )


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", _text(32), nullable=False),
        sa.Column("run", _text(16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("node", _text(64), nullable=False),
        sa.Column("node_name", _text(255), nullable=False),
        sa.Column("state", _text(16), nullable=False),
        sa.Column("outcome", _text(16), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_tasks_run_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("run", "position", name=op.f("uq_tasks_run_position")),
    )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.create_index("ix_tasks_run_changed", ["run", "changed"], unique=False)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", _text(40), nullable=False),
        sa.Column("run", _text(16), nullable=False),
        sa.Column("task", _text(32), nullable=False),
        sa.Column("node", _text(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("wanted", _text(8), nullable=False),
        sa.Column("stops", sa.Integer(), nullable=False),
        sa.Column("stop_signal", sa.Integer(), nullable=False),
        sa.Column("offered", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("offer_until", sa.BigInteger(), nullable=True),
        sa.Column("state", _text(16), nullable=False),
        sa.Column("outcome", _text(16), nullable=True),
        sa.Column("snapshot", sa.LargeBinary(), nullable=True),
        sa.Column("ended", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("log_gone", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("sealed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("sealed_at", sa.BigInteger(), nullable=True),
        sa.Column("released", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("purged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("fresh", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_attempts_run_runs")),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_attempts_task_tasks")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("task", "number", name=op.f("uq_attempts_task_number")),
    )
    _index_attempts()


def _index_attempts() -> None:
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index(
            "ix_attempts_fresh",
            ["run"],
            unique=False,
            sqlite_where=sa.text("fresh"),
            postgresql_where=sa.text("fresh"),
        )
        batch_op.create_index(
            "ix_attempts_open",
            ["node"],
            unique=False,
            sqlite_where=sa.text("NOT released"),
            postgresql_where=sa.text("NOT released"),
        )
        batch_op.create_index(batch_op.f("ix_attempts_run"), ["run"], unique=False)
        batch_op.create_index(
            "ix_attempts_to_purge",
            ["sealed_at"],
            unique=False,
            sqlite_where=sa.text("sealed AND NOT purged"),
            postgresql_where=sa.text("sealed AND NOT purged"),
        )
        batch_op.create_index(
            "ix_attempts_to_seal",
            ["ended"],
            unique=False,
            sqlite_where=sa.text("ended AND NOT sealed"),
            postgresql_where=sa.text("ended AND NOT sealed"),
        )
        batch_op.create_index(
            "ix_attempts_unoffered",
            ["offer_until"],
            unique=False,
            sqlite_where=sa.text("NOT offered AND NOT released"),
            postgresql_where=sa.text("NOT offered AND NOT released"),
        )


def _create_logs() -> None:
    op.create_table(
        "logs",
        sa.Column("attempt", _text(40), nullable=False),
        sa.Column("object", _text(255), nullable=True),
        sa.Column("inline", sa.LargeBinary(), nullable=True),
        sa.Column("layout", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt"], ["attempts.id"], name=op.f("fk_logs_attempt_attempts")
        ),
        sa.PrimaryKeyConstraint("attempt", name=op.f("pk_logs")),
    )
