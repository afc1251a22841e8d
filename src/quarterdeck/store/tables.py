"""The tables. Times are integers: microseconds since 1970, UTC. Records are msgpack blobs.

State columns are changed only by guarded updates (`WHERE id = ? AND version = ?`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=false())


nodes = Table(
    "nodes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False, index=True),
    Column("public_key", String(64), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("labels", LargeBinary, nullable=False),
    Column("session", String(64), nullable=False, server_default=""),
    Column("last_seen", BigInteger),
    _flag("quarantined"),
    Column("removed_at", BigInteger),
    Column("facts", LargeBinary, nullable=False),
    Column("load", LargeBinary, nullable=False),
    Column("full", Text, nullable=False, server_default=""),
    Column("unknown", LargeBinary, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("namespace", String(64), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

orders = Table(
    "orders",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("namespace", String(64), nullable=False),
    Column("origin", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("order_hash", String(64), ForeignKey("orders.hash"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("outcome", String(16)),
    Column("stop_asked", Integer, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("counts", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    _flag("due"),
    Column("idempotency_key", String(160), unique=True),
    Index("ix_runs_due", "due", sqlite_where=text("due"), postgresql_where=text("due")),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("run", String(16), ForeignKey("runs.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("node", String(64), nullable=False),
    Column("node_name", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("outcome", String(16)),
    Column("exit_code", Integer),
    Column("changed", Integer, nullable=False),
    UniqueConstraint("run", "position"),
    Index("ix_tasks_run_changed", "run", "changed"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("run", String(16), ForeignKey("runs.id"), nullable=False, index=True),
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False),
    Column("node", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("wanted", String(8), nullable=False),
    Column("stops", Integer, nullable=False),
    Column("stop_signal", Integer, nullable=False),
    _flag("offered"),
    Column("offer_until", BigInteger),
    Column("state", String(16), nullable=False),
    Column("outcome", String(16)),
    Column("snapshot", LargeBinary),
    _flag("ended"),
    _flag("log_gone"),
    _flag("sealed"),
    Column("sealed_at", BigInteger),
    _flag("released"),
    _flag("purged"),
    _flag("fresh"),
    Column("version", Integer, nullable=False),
    UniqueConstraint("task", "number"),
    Index(
        "ix_attempts_open",
        "node",
        sqlite_where=text("NOT released"),
        postgresql_where=text("NOT released"),
    ),
    Index("ix_attempts_fresh", "run", sqlite_where=text("fresh"), postgresql_where=text("fresh")),
    Index(
        "ix_attempts_to_seal",
        "ended",
        sqlite_where=text("ended AND NOT sealed"),
        postgresql_where=text("ended AND NOT sealed"),
    ),
    Index(
        "ix_attempts_to_purge",
        "sealed_at",
        sqlite_where=text("sealed AND NOT purged"),
        postgresql_where=text("sealed AND NOT purged"),
    ),
    Index(
        "ix_attempts_unoffered",
        "offer_until",
        sqlite_where=text("NOT offered AND NOT released"),
        postgresql_where=text("NOT offered AND NOT released"),
    ),
)

logs = Table(
    "logs",
    metadata,
    Column("attempt", String(40), ForeignKey("attempts.id"), primary_key=True),
    Column("object", String(255)),
    Column("inline", LargeBinary),
    Column("layout", LargeBinary, nullable=False),
)

rejected = Table(
    "rejected",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("subject", String(255), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
