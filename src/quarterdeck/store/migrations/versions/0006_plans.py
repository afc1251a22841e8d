"""Plans of runs: limits, deadlines, labels, retries"""

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("plan", sa.LargeBinary()))
    op.add_column("runs", sa.Column("labels", sa.LargeBinary()))
    op.add_column("runs", sa.Column("deadline_at", sa.BigInteger()))
    op.add_column("runs", sa.Column("halt", _text(16)))
    op.add_column("runs", sa.Column("reason", _text(), nullable=False, server_default=""))
    op.add_column("tasks", sa.Column("tries", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("tasks", sa.Column("reason", _text(), nullable=False, server_default=""))
    op.add_column("attempts", sa.Column("not_before", sa.BigInteger()))
    open_until = sa.text("deadline_at IS NOT NULL AND ended_at IS NULL")
    op.create_index(
        "ix_runs_deadline",
        "runs",
        ["deadline_at"],
        sqlite_where=open_until,
        postgresql_where=open_until,
    )
    later = sa.text("not_before IS NOT NULL AND NOT offered AND NOT released")
    op.create_index(
        "ix_attempts_later",
        "attempts",
        ["not_before"],
        sqlite_where=later,
        postgresql_where=later,
    )
    op.create_table(
        "run_labels",
        sa.Column("run", _text(16), nullable=False),
        sa.Column("key", _text(64), nullable=False),
        sa.Column("value", _text(255), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_labels_run_runs")),
        sa.PrimaryKeyConstraint("run", "key", name=op.f("pk_run_labels")),
    )
    op.create_index("ix_run_labels_value", "run_labels", ["key", "value", "run"])
    _queue_what_has_an_attempt()


def downgrade() -> None:
    op.drop_table("run_labels")
    op.drop_index("ix_attempts_later", table_name="attempts")
    op.drop_index("ix_runs_deadline", table_name="runs")
    op.drop_column("attempts", "not_before")
    for column in ("reason", "tries"):
        op.drop_column("tasks", column)
    for column in ("reason", "halt", "deadline_at", "labels", "plan"):
        op.drop_column("runs", column)


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text() if length is None else sa.String(length)
    exact = sa.Text(collation="C") if length is None else sa.String(length, collation="C")
    return plain.with_variant(exact, "postgresql")


def _queue_what_has_an_attempt() -> None:
    """Until now every task had its attempt from the beginning: what was pending is queued."""
    connection = op.get_bind()
    connection.execute(sa.text("UPDATE tasks SET state = 'queued' WHERE state = 'pending'"))
    runs = sa.table("runs", sa.column("id"), sa.column("state"), sa.column("counts"))
    open_runs = sa.select(runs.c.id, runs.c.counts).where(runs.c.state != "ended")
    for row in connection.execute(open_runs).all():
        counts = msgspec.msgpack.decode(row.counts, type=dict[str, int])
        counts["queued"] = counts.pop("pending", 0)
        packed = msgspec.msgpack.encode(counts)
        connection.execute(sa.update(runs).where(runs.c.id == row.id).values(counts=packed))
