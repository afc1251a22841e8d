"""The far end: serves the machine it runs on to the agent at the other end of stdin and stdout.

It is started over SSH with nothing installed (carry.py), so it and all it imports need the
standard library alone. It owns the state directory for as long as its connection lives: it holds
the lock of every attempt that no shim has, and it ends when its input ends or when nothing was
heard for `SILENCE_S` (the other end asks every few seconds). Its end is no harm: shims live on.

After the greeting it sends `hello` or `refused`; then an answer to each request, and a state of
each attempt whenever that has changed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from quarterdeck.agent.account import look_up
from quarterdeck.agent.figures import facts
from quarterdeck.agent.held import Refusal, Request
from quarterdeck.agent.machine import Machine, RealClaim
from quarterdeck.agent.process import Spawner
from quarterdeck.agent.shim import files
from quarterdeck.agent.ssh.frames import GREETING, pack, read
from quarterdeck.errors import Broken, Conflict, QuarterdeckError, Unavailable
from quarterdeck.service import Services, SystemClock, guarded

SILENCE_S = 20.0
LEAVE_S = 2.0
LEAVE_LOOK_S = 0.1
CALM_S = 0.01  # between two states of one attempt
SPOOLED = ("stdout", "stderr", "times")  # in this order: marks cover what is measured before them


class Far:
    """One connection's end on its machine."""

    def __init__(self, machine: Machine, reader: asyncio.StreamReader, send: Sender) -> None:
        self._machine = machine
        self._reader = reader
        self._send = send
        self._claims: dict[str, RealClaim] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._terms: dict[str, dict[str, Any]] = {}
        self._services = Services(_complain, SystemClock())
        self._environ = _inherited()

    async def serve(self) -> None:
        """Until the other end is gone. Waits for its requests."""
        try:
            await self._take_directory()
        except QuarterdeckError as error:
            await self._send(pack({"event": "refused", **_failure(error)}))
            return
        try:
            await self._hello()
            while True:
                async with asyncio.timeout(SILENCE_S):
                    head, blob = await read(self._reader)
                self._services.spawn(self._handle(head, blob), f"{head.get('do')}")
        except (EOFError, TimeoutError, ConnectionError):
            return
        finally:
            await self._services.stop()
            await self._machine.stop()

    async def _take_directory(self) -> None:
        """An earlier far end, whose connection has just ended, may need a moment to leave."""
        patience = int(LEAVE_S / LEAVE_LOOK_S)
        for _ in range(patience):
            try:
                await self._machine.start()
                return
            except Conflict:
                await asyncio.sleep(LEAVE_LOOK_S)
        await self._machine.start()

    async def _hello(self) -> None:
        attempts = self._machine.scan()
        for attempt in attempts:
            self._take(attempt)
        states = {attempt: self._state(attempt) for attempt in attempts}
        buried = self._machine.journal.tombstones()
        hello = {
            "event": "hello",
            "facts": facts(),
            "hostname": os.uname().nodename,
            "states": states,
            "tombstones": {id: dataclasses.asdict(why) for id, why in buried.items()},
            **self._figures(),
        }
        await self._send(pack(hello))
        for attempt in attempts:
            if attempt not in self._claims:
                self._follow(attempt)

    def _figures(self) -> dict[str, Any]:
        return {"load": self._machine.figures(), "free": self._machine.free_bytes()}

    def _take(self, attempt: str) -> None:
        """Hold the attempt's lock, unless a shim does."""
        if attempt not in self._claims and (claim := self._machine.claim(attempt)) is not None:
            self._claims[attempt] = claim

    def _follow(self, attempt: str) -> None:
        self._services.loop(f"attempt {attempt}", lambda: self._following(attempt))

    async def _following(self, attempt: str) -> None:
        """Loop: tell what changes in the attempt's directory until its shim is gone."""
        changed = asyncio.Event()
        watch = self._machine.watch(attempt, changed.set)
        gone = self._services.spawn(self._machine.until_shim_gone(attempt), f"shim of {attempt}")
        gone.add_done_callback(lambda _: changed.set())
        try:
            while not gone.done():
                await self._tell(attempt)
                try:
                    async with asyncio.timeout(watch.patience_s):
                        await changed.wait()
                except TimeoutError:
                    pass
                changed.clear()
                await asyncio.sleep(CALM_S)
        finally:
            gone.cancel()
            watch.close()
        self._take(attempt)
        await self._tell(attempt)

    async def _tell(self, attempt: str) -> None:
        state = self._state(attempt)
        if state != self._told.get(attempt):
            self._note(attempt, state)
            await self._send(pack({"event": "state", "attempt": attempt, "state": state}))

    def _note(self, attempt: str, state: dict[str, Any] | None) -> None:
        if state is None:
            self._told.pop(attempt, None)
        else:
            self._told[attempt] = state

    def _state(self, attempt: str) -> dict[str, Any] | None:
        """What the directory and its lock say now; None when there is no such attempt."""
        folder = self._machine.journal.directory(attempt)
        sizes = {name: _size(folder / name) for name in SPOOLED}
        held = self._machine.look(attempt)
        if held is None:
            self._terms.pop(attempt, None)
            return None
        if attempt not in self._terms:  # once: an order may be large
            self._terms[attempt] = dataclasses.asdict(self._machine.journal.terms(attempt))
        return {
            "accepted_at": held.accepted_at,
            "started": held.started and files.started_json(held.started),
            "stop": held.stop and files.stop_json(held.stop),
            "overdue": held.overdue,
            "end": held.end and files.exit_json(held.end),
            "signals": [dataclasses.asdict(signal) for signal in held.signals],
            "signalled": held.signalled,
            "gone_at": held.gone_at,
            "broken": held.broken,
            "facts": held.facts,
            "taken": attempt not in self._claims,
            "terms": self._terms[attempt],
            "sizes": sizes,
            "acked": self._machine.spool(attempt).acked(),
        }

    async def _handle(self, head: dict[str, Any], blob: bytes) -> None:
        attempt = str(head.get("attempt", ""))
        answer, data = await guarded(self._do(head, attempt, blob), _not_done)
        if attempt and head.get("do") != "read":
            state = await guarded(_soon(partial(self._state, attempt)), lambda _: None)
            self._note(attempt, state)
            answer |= {"attempt": attempt, "state": state}
        if head.get("id"):
            await self._send(pack({"id": head["id"], **answer}, data))

    async def _do(
        self, head: dict[str, Any], attempt: str, blob: bytes
    ) -> tuple[dict[str, Any], bytes]:
        """The value and the bytes of an answer."""
        machine = self._machine
        value: Any = None
        data = b""
        match head["do"]:
            case "ping":
                value = self._figures()
            case "contact":
                machine.contact()
            case "read":
                data = await self._read(attempt, head)
            case "acked":
                machine.spool(attempt).save_acked(head["offsets"])
            case "accept":
                await machine.write_order(attempt, await self._whole(head["order"], head["user"]))
                self._take(attempt)
            case "start":
                value = await self._start(attempt)
            case "ask":
                await machine.ask(attempt, _request(head))
            case "clear":
                value = await self._clear(attempt)
            case "end":
                await self._claimed(attempt).end(_end(head["end"]))
            case "release":
                await machine.release(attempt)
                if (claim := self._claims.pop(attempt, None)) is not None:
                    claim.close()
            case "bury":
                await machine.bury(attempt, Refusal.read(head["why"]))
            case "prune":
                await machine.prune(head["before"])
                value = list(machine.journal.tombstones())
            case unknown:
                raise Broken("far", f"The far end knows no {unknown!r}.")
        return {"value": value}, data

    async def _whole(self, order: dict[str, Any], user: str | None) -> dict[str, Any]:
        """An order with what only this machine knows: who the user is, what commands inherit."""
        of_user = dict[str, str]()
        if user is not None:
            account, of_user = await look_up(user)
            order["account"] = dataclasses.asdict(account)
        return {**order, "environ": {**self._environ, **of_user, **order["environ"]}}

    async def _read(self, attempt: str, head: dict[str, Any]) -> bytes:
        spool = self._machine.spool(attempt)
        try:
            return await spool.read(head["name"], head["offset"], head["length"])
        finally:
            spool.close()

    def _claimed(self, attempt: str) -> RealClaim:
        claim = self._claims.get(attempt)
        if claim is None:
            raise Broken("claim", f"The lock of {attempt} is not held here.")
        return claim

    async def _start(self, attempt: str) -> int:
        claim = self._claimed(attempt)
        del self._claims[attempt]
        try:
            pid = await claim.start()
        except Broken:
            self._take(attempt)
            raise
        self._follow(attempt)
        return pid

    async def _clear(self, attempt: str) -> dict[str, Any]:
        held = self._machine.look(attempt)
        if held is None:
            raise Broken("attempt", f"{attempt} is not here.")
        return dataclasses.asdict(await self._claimed(attempt).clear(held))


class Sender:
    """Writes whole messages, one after the other."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._turn = asyncio.Lock()

    async def __call__(self, message: bytes) -> None:
        async with self._turn:
            self._writer.write(message)
            await self._writer.drain()


def run(arguments: Sequence[str]) -> int:
    """Entry point: the name of the node's directory, and of the variable that marks commands."""
    name, mark = arguments
    out = os.dup(1)
    os.dup2(2, 1)  # whoever prints, prints into no message
    asyncio.run(_serve(name, mark, out))
    return 0


async def _serve(name: str, mark: str, out: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    source, sink = os.fdopen(0, "rb"), os.fdopen(out, "wb")
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    send = Sender(asyncio.StreamWriter(transport, protocol, None, loop))
    await send(GREETING)
    try:
        state = state_directory(name)
    except QuarterdeckError as error:
        await send(pack({"event": "refused", **_failure(error)}))
        return
    machine = Machine(state, mark, Spawner(carried_spawner))
    await Far(machine, reader, send).serve()


def state_directory(name: str) -> Path:
    """Where the node's attempts lie: in the state folder of this user, else in a folder of /var/tmp
    that nobody else can have made. Raises Unavailable."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    tried = []
    for folder in (Path(state) / "quarterdeck", Path(f"/var/tmp/quarterdeck-{os.getuid()}")):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.lstat()
            if (
                found.st_uid == os.getuid()
                and not folder.is_symlink()
                and os.access(folder, os.W_OK)
            ):
                folder.chmod(0o700)
                return folder / name
            tried.append(f"{folder} is not this user's own")
        except OSError as error:
            tried.append(f"{folder}: {error.strerror or error}")
    raise Unavailable(
        "state_directory", f"There is no place for the node's attempts ({'; '.join(tried)})."
    )


def carried_spawner(arguments: Sequence[str], fd: int) -> subprocess.Popen[bytes]:
    """The spawner, from the sources that this process was made from."""
    carried: Any = next(finder for finder in sys.meta_path if hasattr(finder, "carried"))
    program = [sys.executable, "-I", "-S", "-c", carried.boot, "quarterdeck.agent.spawner"]
    with tempfile.TemporaryFile() as sources:
        sources.write(carried.carried)
        sources.seek(0)
        return subprocess.Popen(
            [*program, *arguments],
            pass_fds=[fd],
            stdin=sources,
            start_new_session=True,
            cwd="/",
        )


def _inherited() -> dict[str, str]:
    """What a command inherits: the environment of the login, without what is the connection's."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SSH_", "QD_")) and (key + value).isprintable()
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _request(head: dict[str, Any]) -> Request | None:
    if head.get("stop") is not None:
        return files.Stop(**head["stop"])
    if head.get("signals") is not None:
        return tuple(files.Signal(**raw) for raw in head["signals"])
    return None


def _end(raw: dict[str, Any]) -> files.Exit:
    streams = {name: files.StreamEnd(**part) for name, part in raw["streams"].items()}
    return files.Exit(**{**{k: v for k, v in raw.items() if k != "v"}, "streams": streams})


def _failure(error: Exception) -> dict[str, Any]:
    """How an error travels."""
    if isinstance(error, QuarterdeckError):
        return {"error": type(error).__name__, "code": error.code, "text": error.message}
    if isinstance(error, OSError):
        return {"error": "OSError", "errno": error.errno, "text": error.strerror or str(error)}
    return {"error": "Broken", "code": "far", "text": f"{type(error).__name__}: {error}"}


def _not_done(error: Exception) -> tuple[dict[str, Any], bytes]:
    return _failure(error), b""


async def _soon(work: partial[dict[str, Any] | None]) -> dict[str, Any] | None:
    return work()


def _complain(name: str, error: str, _delay_s: float) -> None:
    sys.stderr.write(f"{name}: {error}\n")
