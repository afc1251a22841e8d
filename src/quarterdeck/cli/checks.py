"""What `qd doctor` looks at: each check gives findings, and none of them raises.

Checks of the machine need the data directory only; checks of the server read what `/debug/status`
and `/v1/nodes` say.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from quarterdeck.core.room import MIB
from quarterdeck.errors import Denied, QuarterdeckError
from quarterdeck.service import free_bytes
from quarterdeck.settings import (
    AgentSettings,
    ClientSettings,
    ServerSettings,
    Settings,
    client_file,
    load,
)

LOW_TIMES = 4
FEW_INODES = 10_000
CLOCK_S = 2.0
STUCK_S = 300.0
HOPELESS_S = 3600.0
RECENT_S = 900.0
FILL_WARN, FILL_FAIL = 0.8, 0.95
LOG_END = 64 << 10
NAMED = 8
GOT_OVER = ("FabricConnected", "Started")
REMOVED = ("login is unknown, expired or revoked", "authentication revoked")
"""What the agent of a removed node hears. One that is still wanted shows among the nodes."""


class Finding(NamedTuple):
    """`level` is ok, warn or fail; `text` says what it is and what to do."""

    level: str
    what: str
    text: str


def settings(data: Path) -> Iterator[Finding]:
    """Every settings file that is there, and the variables of the environment."""
    files: list[tuple[type[Settings], Path]] = [(ClientSettings, client_file())]
    files.append((ServerSettings, data / "server" / "server.toml"))
    with contextlib.suppress(OSError):
        agents = sorted((data / "agents").glob("*/agent.toml"))
        files += [(AgentSettings, path) for path in agents]
    bad = 0
    for kind, path in files:
        try:
            if path.exists():
                load(kind, file=str(path))
        except QuarterdeckError as error:
            bad += 1
            yield Finding("fail", "settings", f"{error.message} Mend it there.")
        except OSError as error:
            bad += 1
            yield Finding("fail", "settings", f"{path} can't be read: {error.strerror}.")
    if not bad:
        yield Finding("ok", "settings", "every settings file and QD_ variable can be used.")


def limit_mib(data: Path) -> int:
    """Below how much free disk the server of this directory refuses new runs."""
    file = data / "server" / "server.toml"
    try:
        return load(ServerSettings, file=str(file) if file.exists() else None).min_free_mib
    except (QuarterdeckError, OSError):  # `settings` has told
        return ServerSettings().min_free_mib


def directory(data: Path, min_free_mib: int) -> Iterator[Finding]:
    """The data directory of this machine: owner, mode, room."""
    try:
        found = data.stat()
        disk = os.statvfs(data)
        free_mib = free_bytes(data) // MIB
    except FileNotFoundError:
        yield Finding("warn", "data", f"{data} does not exist: no `qd up` was started there.")
        return
    except OSError as error:
        yield Finding("fail", "data", f"{data} can't be looked at: {error.strerror}.")
        return
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        text = f"{data} belongs to uid {found.st_uid}: run this and `qd up` as that user."
        yield Finding("fail", "data", text)
    elif stat.S_IMODE(found.st_mode) & 0o077:
        yield Finding("warn", "data", f"{data} is open to other users: chmod 700 {data}.")
    elif not os.access(data, os.W_OK):
        yield Finding("fail", "data", f"{data} can't be written: make it writable again.")
    else:
        yield Finding("ok", "data", f"{data} is there, private and writable.")
    level = "ok" if free_mib >= min_free_mib * LOW_TIMES else "warn"
    advice = "." if level == "ok" else ": free some, new runs are refused below the limit."
    if free_mib < min_free_mib:
        level, advice = "fail", ": new runs are refused; free some space."
    text = f"{free_mib} MiB are free at {data} (the limit is {min_free_mib}){advice}"
    yield Finding(level, "disk", text)
    if disk.f_files and disk.f_favail < FEW_INODES:
        text = f"only {disk.f_favail} inodes are free at {data}: delete small files."
        yield Finding("warn", "inodes", text)


def database_file(data: Path) -> Iterator[Finding]:
    """The SQLite file as it lies there, for the time the server is down."""
    path = data / "server" / "quarterdeck.sqlite3"
    try:
        if not path.exists():
            return
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        size = path.stat().st_size // MIB
    except (OSError, sqlite3.Error, TypeError) as error:
        text = f"{path} can't be read: {error}. Restore it from a backup."
        yield Finding("fail", "database", text)
        return
    if state != "ok":
        text = f"{path} is damaged ({state}): restore it from a backup."
        yield Finding("fail", "database", text)
    elif not os.access(path, os.W_OK):
        yield Finding("fail", "database", f"{path} can't be written: mend its owner or mode.")
    else:
        yield Finding("ok", "database", f"SQLite, schema {version}, {size} MiB, sound.")


def crashes(data: Path) -> Iterator[Finding]:
    """What a shim wrote down when it met a defect of its own, until its attempt is released."""
    with contextlib.suppress(OSError):
        states = ("agents/*", "agent")  # of `qd up`, of `qd agent`
        for path in sorted(p for s in states for p in data.glob(f"{s}/attempts/*/crash")):
            lines = path.read_text(errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
            text = (
                f"the shim of {path.parent.name} met a defect: {said[:300]}; report it with {path}."
            )
            yield Finding("warn", "shim", text)


def logs(data: Path, now: datetime) -> Iterator[Finding]:
    """The last complaint of each child of `qd up` that is recent, and that it has not got over."""
    with contextlib.suppress(OSError):
        for path in sorted((data / "log").glob("*.log")):
            found, at = last_complaint(path)
            at = at or datetime.fromtimestamp(path.stat().st_mtime, now.tzinfo)
            age_s = max(0.0, (now - at).total_seconds())
            if found and age_s < RECENT_S and not any(word in found for word in REMOVED):
                text = f"{path.stem} said {age_s:.0f} s ago: {found} ({path})"
                yield Finding("warn", "log", text)


def server(status: dict[str, Any], local: datetime) -> Iterator[Finding]:
    """What `/debug/status` says of the server itself; `local` is when it was asked."""
    if status["problem"]:
        yield Finding("fail", "server", f"{status['problem']} See the lines below.")
    else:
        text = f"version {status['version']} on Python {status['python']}, ready."
        yield Finding("ok", "server", text)
    offset_s = (local - datetime.fromisoformat(status["now"])).total_seconds()
    if abs(offset_s) > CLOCK_S:
        text = f"this clock is {offset_s:+.1f} s off the server's: let both use NTP."
        yield Finding("warn", "clock", text)
    else:
        yield Finding("ok", "clock", f"within {CLOCK_S:g} s of the server's.")
    if status["disk"]:
        yield Finding("fail", "disk", status["disk"])
    yield from _fabric(status["fabric"])
    database = status["database"]
    if database["problem"]:
        yield Finding("fail", "database", database["problem"])
    else:
        text = f"{database['kind']}, writable, {database['waiting_writes']} writes wait."
        yield Finding("ok", "database", text)
    yield from _backlog(status)
    for trouble in status["troubles"]:
        at = datetime.fromisoformat(trouble["at"])
        if (datetime.fromisoformat(status["now"]) - at).total_seconds() < RECENT_S:
            text = f"{trouble['name']} failed {trouble['times']} times: {trouble['error']}"
            yield Finding("warn", "loop", text)


def readiness(health: dict[str, Any]) -> Iterator[Finding]:
    """What `/readyz` says to everybody."""
    if health["problem"]:
        yield Finding("fail", "server", f"{health['problem']}")
    else:
        yield Finding("ok", "server", "ready.")


def refusal(error: Denied, unseen: str) -> Iterator[Finding]:
    """What a token that is good for other things may not see here."""
    told = f"{unseen} can't be checked with it. {error.message}"
    yield Finding("warn", "token", told)


def nodes(found: list[dict[str, Any]], status: dict[str, Any] | None) -> Iterator[Finding]:
    """Who of the fleet is not well; without the server's `status` their versions and clocks are
    not compared."""
    advice = {
        "gone": (
            "warn",
            "look whether its machine and agent run, or take it off with `qd node remove`.",
        ),
        "silent": ("warn", "it beat less than a minute ago; look at its network and load."),
        "quarantined": (
            "fail",
            "two agents use its identity: stop the one on the copy and give it an empty state "
            "directory; when the node is not ready two minutes later, `qd node remove` it and "
            "give both one.",
        ),
    }
    quiet = True
    for state, (level, what) in advice.items():
        names = [node["node"] for node in found if node["state"] == state]
        if names:
            quiet = False
            yield Finding(level, "nodes", f"{_names(names)}: {state}; {what}")
    full = [node["node"] for node in found if node["problem"]]
    if full:
        quiet = False
        text = f"{_names(full)}: refuse new work; free space there (`qd nodes` says more)."
        yield Finding("fail", "nodes", text)
    compared = [] if status is None else list(_compared(found, status))
    yield from compared
    if quiet and not compared:
        yield Finding("ok", "nodes", f"{len(found)} nodes, all well.")


def _compared(found: list[dict[str, Any]], status: dict[str, Any]) -> Iterator[Finding]:
    old = [n["node"] for n in found if n["version"] and n["version"] != status["version"]]
    if old:
        text = f"{_names(old)}: not of version {status['version']}; upgrade their agents."
        yield Finding("warn", "nodes", text)
    for clock in status["nodes"]["clocks"]:
        text = f"{clock['node']}: its clock is {clock['offset_s']:+.1f} s off; let it use NTP."
        yield Finding("warn", "nodes", text)


def _fabric(fabric: dict[str, Any]) -> Iterator[Finding]:
    if fabric["problem"]:
        text = f"{fabric['problem']} Look whether nats-server runs; running tasks go on."
        yield Finding("fail", "fabric", text)
        return
    yield Finding("ok", "fabric", "the link stands.")
    for stream in fabric["streams"]:
        share = stream["bytes"] / stream["max_bytes"] if stream["max_bytes"] > 0 else 0.0
        level = "fail" if share > FILL_FAIL else "warn" if share > FILL_WARN else "ok"
        advice = "" if level == "ok" else "; look at the backlog and at `out_max_mib`"
        text = f"{stream['name']} is {share:.0%} full ({stream['messages']} messages){advice}."
        yield Finding(level, "stream", text)


def _backlog(status: dict[str, Any]) -> Iterator[Finding]:
    work = status["backlog"]
    if work is None:
        return
    now = datetime.fromisoformat(status["now"])
    stuck = False
    for count, oldest, what in (
        ("unsealed", "oldest_unsealed", "logs wait for the archive"),
        ("due_runs", "oldest_due", "runs wait for their step"),
    ):
        since = work[oldest]
        age_s = (now - datetime.fromisoformat(since)).total_seconds() if since else 0.0
        if age_s > STUCK_S:
            stuck = True
            level = "fail" if age_s > HOPELESS_S else "warn"
            text = f"{work[count]} {what}, the oldest for {age_s:.0f} s: is its node there?"
            yield Finding(level, "backlog", text)
    if work["rejected"]:
        text = f"{work['rejected']} messages of nodes could not be taken (table `rejected`)."
        yield Finding("warn", "backlog", text)
    if not stuck:
        yield Finding("ok", "backlog", f"{work['unsealed']} to archive, {work['due_runs']} due.")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def last_complaint(path: Path) -> tuple[str, datetime | None]:
    """The last line that is a warning, an error, or no event at all, and its time when it says one.

    Empty when the process has started or been connected since.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_END))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            event = json.loads(line)
            if event.get("event") in GOT_OVER:
                break
            if event.get("level") in ("warning", "error"):
                return str(event.get("error") or event.get("event"))[:300], _said_at(event)
        except (ValueError, AttributeError):
            if line.strip():
                return line.strip()[:300], None
    return "", None


def _said_at(event: dict[str, Any]) -> datetime | None:
    try:
        at = datetime.fromisoformat(event["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None
    return at if at.tzinfo else None
