"""The files of an attempt's directory: records, and readers that trust nothing.

A reader answers None for a file that is not there and raises ValueError, naming the file, for one
that is corrupt, half-written or of an unknown version; the caller never has to guess which.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quarterdeck.agent.shim.fields import VERSION, Fields, Folder, load

# stream (1 stdout, 2 stderr), offset of the first byte read then, unix time in microseconds
MARK = struct.Struct("<BQQ")
STREAMS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the command: looked up by the agent, so that no shim ever asks a directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, complete: the shim adds nothing but the script's path."""

    attempt: str
    run: str | None
    argv: tuple[str, ...] | None
    script: bytes | None
    args: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str | None
    stdin: bytes | None
    timeout_s: float = 0.0
    grace_s: float = 10.0
    max_output: int = 0
    leftovers: str = "keep"
    lost_after_s: float = 0.0
    drain_s: float = 2.0
    kill_s: float = 10.0
    account: Account | None = None
    pty: tuple[int, int] | None = None
    umask: int | None = None
    start_timeout_s: float = 0.0
    on_timeout: str = "stop"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever: a pid is reused, a pid with its start ticks is not."""

    pid: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Started:
    """Who runs the attempt; written before the exec. `cgroup` is its own one, where it has one;
    `uid` is the user of the command, where that is another than ours."""

    boot_id: str
    shim: Identity
    child: Identity
    at: float
    cgroup: str | None = None
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to stop; a larger count than the last one seen means: act again."""

    count: int
    signal: int
    reason: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Signal:
    """A request to send one signal; requests are numbered from 1, and each is done once."""

    number: int
    signal: int
    tree: bool


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The final size and digest of a stream's file, and the bytes past the limit not kept."""

    bytes: int
    sha256: str
    dropped: int


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an attempt. `code` and `signal` are both None when the process was not reaped."""

    reason: str | None
    code: int | None
    signal: int | None
    error: str | None
    started_at: float
    ended_at: float
    streams: Mapping[str, StreamEnd]
    survivors: int
    kill_failed: bool


def order_json(order: Order) -> dict[str, Any]:
    """The content of `order`, for the agent to write."""
    return {
        "v": VERSION,
        "attempt": order.attempt,
        "run": order.run,
        "argv": None if order.argv is None else list(order.argv),
        "script_b64": None if order.script is None else base64.b64encode(order.script).decode(),
        "args": list(order.args),
        "environ": dict(order.environ),
        "cwd": order.cwd,
        "stdin_b64": None if order.stdin is None else base64.b64encode(order.stdin).decode(),
        "timeout_s": order.timeout_s,
        "grace_s": order.grace_s,
        "max_output": order.max_output,
        "leftovers": order.leftovers,
        "lost_after_s": order.lost_after_s,
        "drain_s": order.drain_s,
        "kill_s": order.kill_s,
        "account": None if order.account is None else _account_json(order.account),
        "pty": None if order.pty is None else list(order.pty),
        "umask": order.umask,
        "start_timeout_s": order.start_timeout_s,
        "on_timeout": order.on_timeout,
    }


def started_json(started: Started) -> dict[str, Any]:
    """The content of `started`."""
    return {
        "v": VERSION,
        "boot_id": started.boot_id,
        "shim": {"pid": started.shim.pid, "ticks": started.shim.ticks},
        "child": {"pid": started.child.pid, "ticks": started.child.ticks},
        "at": started.at,
        "cgroup": started.cgroup,
        "uid": started.uid,
    }


def stop_json(stop: Stop) -> dict[str, Any]:
    """The content of `stop`, for the agent to write before it sends SIGUSR1."""
    return {
        "count": stop.count,
        "signal": stop.signal,
        "reason": stop.reason,
        "grace_s": stop.grace_s,
    }


def signals_json(signals: Iterable[Signal]) -> dict[str, Any]:
    """The content of `signals`: all there were, for the agent to write before it sends SIGUSR1."""
    return {"signals": [[one.number, one.signal, one.tree] for one in signals]}


def exit_json(end: Exit) -> dict[str, Any]:
    """The content of `exit.json`."""
    return {
        "v": VERSION,
        "reason": end.reason,
        "code": end.code,
        "signal": end.signal,
        "error": end.error,
        "started_at": end.started_at,
        "ended_at": end.ended_at,
        "streams": {
            name: {"bytes": part.bytes, "sha256": part.sha256, "dropped": part.dropped}
            for name, part in end.streams.items()
        },
        "survivors": end.survivors,
        "kill_failed": end.kill_failed,
    }


def read_order(folder: Folder) -> Order | None:
    """The order of an attempt's directory."""
    raw = load(folder, "order")
    if raw is None:
        return None
    argv, script = raw.opt("argv", list), raw.blob("script_b64")
    if (argv is None) == (script is None) or argv == []:
        raise raw.broken('needs exactly one of "argv" and "script_b64"')
    return Order(
        attempt=raw.get("attempt", str),
        run=raw.opt("run", str),
        argv=None if argv is None else raw.texts("argv", argv),
        script=script,
        args=raw.texts("args", raw.opt("args", list) or []),
        environ=raw.environ("environ"),
        cwd=raw.opt("cwd", str),
        stdin=raw.blob("stdin_b64"),
        timeout_s=raw.number("timeout_s", 0.0),
        grace_s=raw.number("grace_s", 10.0),
        max_output=int(raw.number("max_output", 0)),
        leftovers=raw.one_of("leftovers", ("keep", "kill")),
        lost_after_s=raw.number("lost_after_s", 0.0),
        drain_s=raw.number("drain_s", 2.0),
        kill_s=raw.number("kill_s", 10.0),
        account=_account(raw.part("account")) if raw.opt("account", dict) else None,
        pty=_pty(raw),
        umask=raw.opt("umask", int),
        start_timeout_s=raw.number("start_timeout_s", 0.0),
        on_timeout=raw.opt("on_timeout", str) or "stop",
    )


def read_started(folder: Folder) -> Started | None:
    """Who runs, or ran, the attempt."""
    raw = load(folder, "started")
    if raw is None:
        return None
    return Started(
        boot_id=raw.get("boot_id", str),
        shim=_process(raw.part("shim")),
        child=_process(raw.part("child")),
        at=raw.number("at"),
        cgroup=raw.opt("cgroup", str),
        uid=raw.opt("uid", int),
    )


def read_stop(folder: Folder) -> Stop | None:
    """The last request to stop."""
    raw = load(folder, "stop", versioned=False)
    if raw is None:
        return None
    signal_number = raw.get("signal", int)
    if not 1 <= signal_number <= 64:
        raise raw.broken(f"has no signal {signal_number}")
    return Stop(
        count=raw.get("count", int),
        signal=signal_number,
        reason=raw.get("reason", str),
        grace_s=raw.number("grace_s"),
    )


def read_signals(folder: Folder) -> tuple[Signal, ...]:
    """Every signal that was asked for."""
    raw = load(folder, "signals", versioned=False)
    if raw is None:
        return ()
    found = []
    for part in raw.get("signals", list):
        match part:
            case [int(number), int(signal), bool(tree)] if 1 <= signal <= 64:
                found.append(Signal(number, signal, tree))
            case _:
                raise raw.broken(f"has no signal {part!r}")
    return tuple(found)


def read_signalled(folder: Folder) -> int:
    """How many of the signals were sent."""
    raw = load(folder, "signalled", versioned=False)
    return 0 if raw is None else raw.get("count", int)


def read_gone(folder: Folder) -> float | None:
    """When what could not be killed had ended after all."""
    raw = load(folder, "gone", versioned=False)
    return None if raw is None else raw.number("at")


def read_exit(folder: Folder) -> Exit | None:
    """How the attempt ended."""
    raw = load(folder, "exit.json")
    if raw is None:
        return None
    streams = raw.part("streams")
    return Exit(
        reason=raw.opt("reason", str),
        code=raw.opt("code", int),
        signal=raw.opt("signal", int),
        error=raw.opt("error", str),
        started_at=raw.number("started_at"),
        ended_at=raw.number("ended_at"),
        streams={name: _stream_end(streams.part(name)) for name in STREAMS},
        survivors=raw.get("survivors", int),
        kill_failed=raw.get("kill_failed", bool),
    )


def _account_json(account: Account) -> dict[str, Any]:
    groups = list(account.groups)
    return {"uid": account.uid, "gid": account.gid, "groups": groups, "home": account.home}


def _account(raw: Fields) -> Account:
    groups = raw.get("groups", list)
    if not all(type(group) is int for group in groups):
        raise raw.broken("has groups that are not numbers")
    return Account(raw.get("uid", int), raw.get("gid", int), tuple(groups), raw.get("home", str))


def _pty(raw: Fields) -> tuple[int, int] | None:
    match raw.opt("pty", list):
        case None:
            return None
        case [int(rows), int(columns)] if 0 <= rows < 65536 and 0 <= columns < 65536:
            return rows, columns
        case other:
            raise raw.broken(f"has no terminal size {other!r}")


def _process(raw: Fields) -> Identity:
    return Identity(raw.get("pid", int), raw.get("ticks", int))


def _stream_end(raw: Fields) -> StreamEnd:
    return StreamEnd(raw.get("bytes", int), raw.get("sha256", str), raw.get("dropped", int))
