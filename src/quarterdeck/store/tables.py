"""The tables. Times are integers: microseconds since 1970, UTC. Records are msgpack blobs.

State columns are changed only by guarded updates (`WHERE id = ? AND version = ?`).

Texts are compared and sorted by code point on every database: `id < ...` and `ORDER BY id` mean the
order of age, whatever the locale of a PostgreSQL server is.
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
    true,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(length: int | None = None) -> TypeEngine[str]:
    """Text in the order of its code points, as SQLite has it."""
    plain = Text() if length is None else String(length)
    exact = Text(collation="C") if length is None else String(length, collation="C")
    return plain.with_variant(exact, "postgresql")


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=false())


nodes = Table(
    "nodes",
    metadata,
    Column("id", _text(64), primary_key=True),
    Column("name", _text(255), nullable=False, index=True),
    Column("public_key", _text(64), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("labels", LargeBinary, nullable=False),
    Column("session", _text(64), nullable=False, server_default=""),
    Column("last_seen", BigInteger),
    _flag("quarantined"),
    Column("removed_at", BigInteger),
    Column("facts", LargeBinary, nullable=False),
    Column("load", LargeBinary, nullable=False),
    Column("full", _text(), nullable=False, server_default=""),
    Column("unknown", LargeBinary, nullable=False),
    Column("given_name", _text(255), nullable=False, server_default=""),
    Column("server_labels", LargeBinary),
    _flag("draining"),
    Column("approved", Boolean, nullable=False, server_default=true()),
    Column("decision", Integer, nullable=False, server_default="0"),
    Index(
        "ix_nodes_removed",
        "removed_at",
        sqlite_where=text("removed_at IS NOT NULL"),
        postgresql_where=text("removed_at IS NOT NULL"),
    ),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", _text(32), primary_key=True),
    Column("kind", _text(16), nullable=False),
    Column("namespace", _text(64), nullable=False),
    Column("secret_hash", _text(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("approve", _text(8), nullable=False, server_default="auto"),
    Column("uses", Integer),
    Column("used", Integer, nullable=False, server_default="0"),
    Column("scope", _text(100), nullable=False, server_default=""),
    Column("last_used", BigInteger),
    _flag("minted"),
)

orders = Table(
    "orders",
    metadata,
    Column("hash", _text(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", _text(16), primary_key=True),
    Column("namespace", _text(64), nullable=False),
    Column("origin", _text(16), nullable=False),
    Column("parent", _text(16)),
    Column("title", _text(), nullable=False),
    Column("target", _text(), nullable=False),
    Column("order_hash", _text(64), ForeignKey("orders.hash"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", _text(64), nullable=False),
    Column("state", _text(16), nullable=False),
    Column("outcome", _text(16)),
    Column("stop_asked", Integer, nullable=False),
    Column("plan", LargeBinary),
    Column("labels", LargeBinary),
    Column("deadline_at", BigInteger),
    Column("halt", _text(16)),
    Column("reason", _text(), nullable=False, server_default=""),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("counts", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    _flag("due"),
    Column("idempotency_key", _text(160), unique=True),
    Index("ix_runs_namespace", "namespace", "id"),
    Index("ix_runs_due", "due", sqlite_where=text("due"), postgresql_where=text("due")),
    Index(
        "ix_runs_deadline",
        "deadline_at",
        sqlite_where=text("deadline_at IS NOT NULL AND ended_at IS NULL"),
        postgresql_where=text("deadline_at IS NOT NULL AND ended_at IS NULL"),
    ),
)

run_labels = Table(
    "run_labels",
    metadata,
    Column("run", _text(16), ForeignKey("runs.id"), primary_key=True),
    Column("key", _text(64), primary_key=True),
    Column("value", _text(255), nullable=False),
    Index("ix_run_labels_value", "key", "value", "run"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", _text(32), primary_key=True),
    Column("run", _text(16), ForeignKey("runs.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("node", _text(64), nullable=False),
    Column("node_name", _text(255), nullable=False),
    Column("state", _text(16), nullable=False),
    Column("outcome", _text(16)),
    Column("exit_code", Integer),
    Column("tries", Integer, nullable=False, server_default="1"),
    Column("reason", _text(), nullable=False, server_default=""),
    Column("changed", Integer, nullable=False),
    Column("node_state", _text(16), nullable=False, server_default=""),
    UniqueConstraint("run", "position"),
    Index("ix_tasks_run_changed", "run", "changed"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", _text(40), primary_key=True),
    Column("run", _text(16), ForeignKey("runs.id"), nullable=False, index=True),
    Column("task", _text(32), ForeignKey("tasks.id"), nullable=False),
    Column("node", _text(64), nullable=False),
    Column("node_name", _text(255), nullable=False, server_default=""),
    Column("number", Integer, nullable=False),
    Column("wanted", _text(8), nullable=False),
    Column("stops", Integer, nullable=False),
    Column("stop_signal", Integer, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("signals", LargeBinary),
    _flag("offered"),
    Column("offer_until", BigInteger),
    Column("not_before", BigInteger),
    Column("state", _text(16), nullable=False),
    Column("outcome", _text(16)),
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
    Index(
        "ix_attempts_later",
        "not_before",
        sqlite_where=text("not_before IS NOT NULL AND NOT offered AND NOT released"),
        postgresql_where=text("not_before IS NOT NULL AND NOT offered AND NOT released"),
    ),
)

logs = Table(
    "logs",
    metadata,
    Column("attempt", _text(40), ForeignKey("attempts.id"), primary_key=True),
    Column("object", _text(255)),
    Column("inline", LargeBinary),
    Column("layout", LargeBinary, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("duty", String(80), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

locks = Table(
    "locks",
    metadata,
    Column("namespace", _text(64), primary_key=True),
    Column("name", _text(128), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("next_ticket", BigInteger, nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("id", _text(64), primary_key=True),
    Column("namespace", _text(64), nullable=False),
    Column("name", _text(128), nullable=False),
    Column("ticket", BigInteger, nullable=False),
    Column("slots", Integer, nullable=False),
    _flag("holding"),
    _flag("leaving"),
    Column("beat", BigInteger, nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("held_at", BigInteger),
    Column("by", _text(64), nullable=False),
    Column("who", LargeBinary, nullable=False),
    UniqueConstraint("namespace", "name", "ticket"),
)

agentless = Table(
    "agentless",
    metadata,
    Column("id", _text(16), primary_key=True),
    Column("via", _text(64), ForeignKey("nodes.id"), nullable=False, index=True),
    Column("place", _text(400), nullable=False),
    Column("node", _text(64), ForeignKey("nodes.id"), unique=True),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("via", "place"),
)

traces = Table(
    "traces",
    metadata,
    Column("id", _text(16), ForeignKey("runs.id"), primary_key=True),
    Column("namespace", _text(64), nullable=False),
    Column("name", _text(100), nullable=False),
    Column("sender", _text(255), nullable=False),
    Column("key", _text(32), nullable=False),
    Column("by", _text(64), nullable=False),
    _flag("kept"),
    Column("state", _text(16), nullable=False),
    _flag("lost"),
    _flag("sealed"),
    Column("beat", BigInteger, nullable=False, server_default="0"),
    Column("heard_at", BigInteger, nullable=False),
    Column("start", LargeBinary, nullable=False),
    Column("bytes_stdout", BigInteger, nullable=False, server_default="0"),
    Column("bytes_stderr", BigInteger, nullable=False, server_default="0"),
    Column("over_stdout", BigInteger, nullable=False, server_default="0"),
    Column("over_stderr", BigInteger, nullable=False, server_default="0"),
    Column("forgotten_stdout", BigInteger, nullable=False, server_default="0"),
    Column("forgotten_stderr", BigInteger, nullable=False, server_default="0"),
    Column("dropped", LargeBinary),
    Column("ending", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("told", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("namespace", "key"),
    Index("ix_traces_name", "namespace", "name", "id"),
    Index(
        "ix_traces_open",
        "state",
        sqlite_where=text("state = 'open' AND NOT lost"),
        postgresql_where=text("state = 'open' AND NOT lost"),
    ),
    Index(
        "ix_traces_over",
        "kept",
        "heard_at",
        sqlite_where=text("NOT sealed"),
        postgresql_where=text("NOT sealed"),
    ),
)

trace_pieces = Table(
    "trace_pieces",
    metadata,
    Column("trace", _text(16), ForeignKey("traces.id"), primary_key=True),
    Column("stream", _text(8), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("length", Integer, nullable=False),
    Column("times", LargeBinary, nullable=False),
    Column("object", _text(255)),
    Column("inline", LargeBinary),
)

rejected = Table(
    "rejected",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("subject", _text(255), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("error", _text(), nullable=False),
    Column("at", BigInteger, nullable=False),
)
