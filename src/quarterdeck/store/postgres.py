"""PostgreSQL as the database of record, for several servers at once: SQLAlchemy over psycopg 3.

Theory. Every write transaction works on one snapshot (REPEATABLE READ), so a unit decides on a
consistent picture as it does on SQLite. Where another server changed a row meanwhile, PostgreSQL
refuses the change (40001, or 40P01 for a deadlock) and the unit runs again on a new snapshot. Who
lost twice takes the one lock that all writers share for itself: while it is held nobody else
commits, so every statement may look at what is committed then, and the unit can't lose again. A
unique key that is there already may be one that the snapshot could not see (both servers created
it): the unit runs again once and finds it. Reads are read-only snapshots.

Connections that broke (a restart, a failover) are replaced. A server that stops dead inside a
transaction (frozen, powered off) would keep its row locks and its share of the one lock, and the
single writer of each other server would wait for them: so PostgreSQL itself ends a writing session
that says nothing for `IDLE_MS` inside a transaction. All messages name the place as
host:port/name, never the address itself: that may hold the password.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, Transaction, create_engine, event, exc

from quarterdeck.errors import Invalid, QuarterdeckError, Unavailable
from quarterdeck.store.group import READERS, Fate, GroupedDatabase
from quarterdeck.store.migrate import upgrade

# what the address does not say itself: a server that is gone is noticed within seconds
DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "quarterdeck",
}
# shorter than LOCK_TIMEOUT_MS: who waits for a dead server's lock gets it
IDLE_MS = 5_000
# the database's own side of a connection: it notices a machine that is gone as quickly as we do
ITS_SIDE: dict[str, int] = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
LOCK_TIMEOUT_MS = 10_000
# released by the end of the transaction; another number than that of the migrations
TAKE_SHARED = "SELECT pg_advisory_xact_lock_shared(73330002)"
TAKE_ALONE = "SELECT pg_advisory_xact_lock(73330002)"

# a password with an unescaped @ or / would show up as a part of these
HOST = re.compile(r"[A-Za-z0-9._:,-]+|/[^@]*")
PORT = re.compile(r"[0-9,]*")
NAME = re.compile(r"[^@/:]*")
# SQLSTATEs: serialization failure, deadlock; unique violation
QUICKER = ("40001", "40P01")
TAKEN = "23505"
BUSY = "is too busy with other servers' changes to the same rows; try again"

SENTENCES = {
    "42501": "refuses what the server must do ({text}); give its user the right to create and "
    "write tables there",
    "25006": "is read-only (a standby?); name the primary in the setting `database`",
    "53100": "has no space left on its disk; free some there, nothing recorded was lost",
    "53300": "has no connection left for us; raise its max_connections",
    "55P03": "kept a row locked for too long: another session holds it (see pg_stat_activity)",
    "40001": BUSY,
    "40P01": BUSY,
}
# of the connection itself PostgreSQL gives only words
AT_CONNECT = (
    ("password", "refused the password; check the one in the setting `database`"),
    ("no pg_hba.conf entry", "does not let this machine in; add it to its pg_hba.conf"),
    ("does not exist", "refused us: {text}; create it, or correct the setting `database`"),
    ("starting up", "is still starting; it is asked again"),
    ("shutting down", "is shutting down; it is asked again"),
    ("too many", "has no connection left for us; raise its max_connections"),
)


class PostgresDatabase(GroupedDatabase):
    """A database at a `postgresql://` address. Raises Invalid for one that can't be parsed."""

    def __init__(self, url: str) -> None:
        self._place, arguments = _parsed(url)
        super().__init__(_engine(arguments, write=True), _engine(arguments, write=False))

    def _prepare(self) -> None:
        upgrade(self._writer)

    def _begin(self, connection: Connection, *, alone: bool) -> Transaction:
        if alone:
            connection.execution_options(isolation_level="READ COMMITTED")
        transaction = connection.begin()
        connection.exec_driver_sql(TAKE_ALONE if alone else TAKE_SHARED)
        return transaction

    def _fate(self, error: Exception) -> Fate:
        if isinstance(error, exc.InvalidRequestError):
            return Fate.BROKEN
        if not isinstance(error, exc.DBAPIError):
            return Fate.OWN
        if error.connection_invalidated:
            return Fate.GONE
        state = _state(error)
        if state in QUICKER:
            return Fate.AGAIN
        if state == TAKEN:
            return Fate.ONCE
        if state is None and isinstance(error.orig, psycopg.OperationalError):
            return Fate.AWAY
        return Fate.OWN

    def _said(self, error: BaseException) -> QuarterdeckError:
        orig = getattr(error, "orig", error)
        text = _first_line(orig)
        if isinstance(orig, psycopg.DataError):
            return Invalid("value", f"This holds a text or number that can't be recorded: {text}.")
        state = _state(error)
        if state is not None and state in SENTENCES:
            rest = SENTENCES[state]
        elif state is None and isinstance(orig, psycopg.OperationalError):
            rest = _at_connect(text)
        else:
            rest = "answered: {text}"
        return Unavailable("database", f"PostgreSQL at {self._place} {rest.format(text=text)}.")


def _parsed(url: str) -> tuple[str, dict[str, Any]]:
    """(host:port/name for messages, the arguments of a connection)."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        given = None
    if given is not None:
        host = str(given.get("host") or given.get("hostaddr") or "localhost")
        port = str(given.get("port") or 5432)
        name = str(given.get("dbname") or given.get("user") or "")
        if HOST.fullmatch(host) and PORT.fullmatch(port) and NAME.fullmatch(name):
            return f"{host}:{port}/{name}", DEFAULTS | given
    # not even chained: the cause may quote the password
    raise Invalid(
        "settings",
        "The setting `database` is not an address of PostgreSQL: write "
        "postgresql://USER:PASSWORD@HOST:PORT/NAME, and special characters of the password as %XX.",
    )


def _engine(arguments: dict[str, Any], *, write: bool) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**arguments),
        isolation_level="REPEATABLE READ",
        pool_size=1 if write else READERS,
        max_overflow=0,
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: psycopg.Connection[Any], _record: object) -> None:
        # what was answered must be on disk, whatever the server's default is
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        if write:
            connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_MS}")
            for name, value in ITS_SIDE.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
        connection.commit()

    return engine if write else engine.execution_options(postgresql_readonly=True)


def _state(error: BaseException) -> str | None:
    """The SQLSTATE, when the server gave one."""
    state: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state


def _first_line(error: object) -> str:
    """The server's own words, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removeprefix("connection failed: ").strip().rstrip(".")


def _at_connect(text: str) -> str:
    for words, sentence in AT_CONNECT:
        if words in text:
            return sentence
    return "can't be reached ({text}); check that it runs, and the setting `database`"
