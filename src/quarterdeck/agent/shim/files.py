"""The files of an attempt's directory: records, and readers that trust nothing.

A reader answers None for a file that is not there and raises ValueError, naming the file, for one
that is corrupt, half-written or of an unknown version; the caller never has to guess which.
"""

from __future__ import annotations

import base64
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

VERSION = 1
# stream (1 stdout, 2 stderr), offset of the first byte read then, unix time in microseconds
MARK = struct.Struct("<BQQ")
STREAMS = {"stdout": 1, "stderr": 2}

_T = TypeVar("_T")
_Path = str | os.PathLike[str]


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


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever: a pid is reused, a pid with its start ticks is not."""

    pid: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Started:
    """Who runs the attempt; written before the exec. `cgroup` is its own one, where it has one."""

    boot_id: str
    shim: Identity
    child: Identity
    at: float
    cgroup: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to stop; a larger count than the last one seen means: act again."""

    count: int
    signal: int
    reason: str
    grace_s: float


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
    }


def stop_json(stop: Stop) -> dict[str, Any]:
    """The content of `stop`, for the agent to write before it sends SIGUSR1."""
    return {
        "count": stop.count,
        "signal": stop.signal,
        "reason": stop.reason,
        "grace_s": stop.grace_s,
    }


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


def read_order(folder: _Path) -> Order | None:
    """The order of an attempt's directory."""
    raw = _load(folder, "order")
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
    )


def read_started(folder: _Path) -> Started | None:
    """Who runs, or ran, the attempt."""
    raw = _load(folder, "started")
    if raw is None:
        return None
    return Started(
        boot_id=raw.get("boot_id", str),
        shim=raw.process("shim"),
        child=raw.process("child"),
        at=raw.number("at"),
        cgroup=raw.opt("cgroup", str),
    )


def read_stop(folder: _Path) -> Stop | None:
    """The last request to stop."""
    raw = _load(folder, "stop", versioned=False)
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


def read_exit(folder: _Path) -> Exit | None:
    """How the attempt ended."""
    raw = _load(folder, "exit.json")
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


def _stream_end(raw: _Fields) -> StreamEnd:
    return StreamEnd(raw.get("bytes", int), raw.get("sha256", str), raw.get("dropped", int))


class _Fields:
    """One JSON object of a file, read field by field with the file's name in every complaint."""

    def __init__(self, path: str, values: dict[str, Any]) -> None:
        self._path = path
        self._values = values

    def broken(self, what: str) -> ValueError:
        return ValueError(f"{self._path} {what}; the file is corrupt")

    def get(self, name: str, kind: type[_T]) -> _T:
        value = self.opt(name, kind)
        if value is None:
            raise self.broken(f'lacks "{name}"')
        return value

    def opt(self, name: str, kind: type[_T]) -> _T | None:
        value = self._values.get(name)
        if type(value) is int and not -(2**53) <= value <= 2**53:
            raise self.broken(f'has a "{name}" out of bounds')
        # bool is an int in Python, never in our files
        if value is not None and (not isinstance(value, kind) or type(value) is bool is not kind):
            raise self.broken(f'has a wrong "{name}"')
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value: object = self._values.get(name, default)
        if isinstance(value, int | float) and type(value) is not bool and 0 <= value < math.inf:
            return float(value)
        raise self.broken(f'has a wrong "{name}"')

    def blob(self, name: str) -> bytes | None:
        text = self.opt(name, str)
        try:
            return None if text is None else base64.b64decode(text, validate=True)
        except ValueError:
            raise self.broken(f'has a "{name}" that is not base64') from None

    def texts(self, name: str, values: list[Any]) -> tuple[str, ...]:
        if not all(isinstance(value, str) for value in values):
            raise self.broken(f'has a "{name}" that is not a list of strings')
        return tuple(values)

    def environ(self, name: str) -> dict[str, str]:
        values = self.get(name, dict)
        if not all(isinstance(value, str) for value in values.values()):
            raise self.broken(f'has a "{name}" with a value that is not a string')
        return dict(values)

    def one_of(self, name: str, words: tuple[str, ...]) -> str:
        value = self._values.get(name, words[0])
        if value not in words:
            raise self.broken(f'has a "{name}" other than {" or ".join(words)}')
        return str(value)

    def part(self, name: str) -> _Fields:
        return _Fields(self._path, self.get(name, dict))

    def process(self, name: str) -> Identity:
        part = self.part(name)
        return Identity(part.get("pid", int), part.get("ticks", int))


def _load(folder: _Path, name: str, *, versioned: bool = True) -> _Fields | None:
    path = os.path.join(os.fspath(folder), name)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); the file is corrupt") from None
    fields = _Fields(path, values if isinstance(values, dict) else {})
    if not isinstance(values, dict):
        raise fields.broken("is not a JSON object")
    if versioned and values.get("v") != VERSION:
        raise ValueError(f"{path} has version {values.get('v')!r}; this one reads only {VERSION}")
    return fields
