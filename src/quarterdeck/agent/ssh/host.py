"""A machine at the other end of an SSH connection, as its agent uses it: a host far away.

One `SshHost` is one connection (link.py): what waits when that ends raises Unavailable, and the
next connection is the next start of the node's agent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable
from importlib import metadata

import msgspec

from quarterdeck.agent.held import REVOKED, Held, Refusal, Remains, Request, Terms
from quarterdeck.agent.host import Claim, Spool, Watch
from quarterdeck.agent.local import own_environ, shim_order
from quarterdeck.agent.shim import files
from quarterdeck.agent.ssh.link import FarLink
from quarterdeck.agent.ssh.mirror import Mirror
from quarterdeck.core.ids import split_attempt
from quarterdeck.wire.run import FactsMessage, LoadMessage, OrderMessage

PATIENCE_S = 5.0


class SshHost:
    """The machine behind a link. `place` is how the fleet calls the host (`user@host:port`), `via`
    the node that reaches it."""

    def __init__(self, link: FarLink, *, place: str = "", via: str = "") -> None:
        self._link = link
        self._mirror = link.mirror
        self._place = place
        self._via = via
        self._claimed: set[str] = set()

    async def start(self) -> None:
        await self._link.open()

    async def stop(self) -> None:
        await self._link.close()

    def scan(self) -> list[str]:
        return sorted(self._mirror.states)

    async def accept(self, attempt: str, order: OrderMessage) -> None:
        own = msgspec.structs.replace(order, user=None)  # whom the far side alone can look up
        given = files.order_json(shim_order(attempt, own, own_environ(attempt, order)))
        await self._link.ask("accept", attempt, order=given, user=order.user)

    def look(self, attempt: str) -> Held | None:
        split_attempt(attempt)
        state = self._mirror.states.get(attempt)
        return None if state is None else state.held(attempt)

    async def terms(self, attempt: str) -> Terms:
        state = self._mirror.states.get(attempt)
        return Terms() if state is None else state.terms

    def claim(self, attempt: str) -> Claim | None:
        split_attempt(attempt)
        state = self._mirror.states.get(attempt)
        if (
            state is None
            or state.taken
            or attempt in self._claimed
            or self._link.channel.lost.done()
        ):
            return None
        self._claimed.add(attempt)
        return SshClaim(attempt, self._link, self._claimed)

    async def until_shim_gone(self, attempt: str) -> None:
        changed = asyncio.Event()
        watch = self.watch(attempt, changed.set)
        try:
            while (state := self._mirror.states.get(attempt)) is not None and state.taken:
                await changed.wait()
                changed.clear()
        finally:
            watch.close()

    async def ask(self, attempt: str, request: Request | None) -> None:
        if isinstance(request, files.Stop):
            await self._link.ask("ask", attempt, stop=dataclasses.asdict(request))
        elif request is None:
            await self._link.ask("ask", attempt)
        else:
            signals = [dataclasses.asdict(signal) for signal in request]
            await self._link.ask("ask", attempt, signals=signals)

    async def release(self, attempt: str) -> None:
        await self._link.ask("release", attempt)
        self._mirror.tombstones.setdefault(attempt, REVOKED)

    async def bury(self, attempt: str, why: Refusal = REVOKED) -> None:
        await self._link.ask("bury", attempt, why=dataclasses.asdict(why))
        self._mirror.tombstones[attempt] = why

    def buried(self, attempt: str) -> Refusal | None:
        return self._mirror.tombstones.get(attempt)

    async def prune(self, before: float) -> int:
        left = await self._link.channel.ask("prune", before=before)
        gone = self._mirror.tombstones.keys() - set(left)
        for attempt in gone:
            del self._mirror.tombstones[attempt]
        return len(gone)

    def watch(
        self,
        attempt: str,
        changed: Callable[[], None],
        output: Callable[[], None] | None = None,
    ) -> Watch:
        return SshWatch(self._mirror, attempt, changed)

    def spool(self, attempt: str) -> Spool:
        split_attempt(attempt)
        return SshSpool(attempt, self._link)

    def facts(self) -> FactsMessage:
        hello = self._link.hello
        assert hello is not None, "not started"
        return msgspec.structs.replace(
            hello.facts,
            hostname=re.sub(r"[^A-Za-z0-9_.-]", "-", hello.hostname)[:255] or "node",
            version=metadata.version("quarterdeck"),
            place=self._place,
            via=self._via,
        )

    def load(self) -> LoadMessage:
        figures = self._link.figures
        assert figures is not None, "not started"
        return figures.load

    def free_bytes(self) -> int:
        figures = self._link.figures
        return 0 if figures is None else figures.free

    def contact(self) -> None:
        self._link.tell("contact")


class SshClaim:
    """A lock that the far end holds, and that nobody else here may use."""

    def __init__(self, attempt: str, link: FarLink, claimed: set[str]) -> None:
        self._attempt = attempt
        self._link = link
        self._claimed = claimed
        self._open = True

    async def start(self) -> int:
        assert self._open, "the claim was closed"
        try:
            pid: int = await self._link.ask("start", self._attempt)
            return pid
        finally:
            self.close()

    async def clear(self, held: Held) -> Remains:
        assert self._open, "the claim was closed"
        return msgspec.convert(await self._link.ask("clear", self._attempt), Remains)

    async def end(self, end: files.Exit) -> None:
        assert self._open, "the claim was closed"
        await self._link.ask("end", self._attempt, end=files.exit_json(end))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._claimed.discard(self._attempt)


class SshWatch:
    """A callback whenever the far end tells a state of the attempt."""

    def __init__(self, mirror: Mirror, attempt: str, changed: Callable[[], None]) -> None:
        self._mirror = mirror
        mirror.watch(self, attempt, changed)

    @property
    def patience_s(self) -> float:
        return PATIENCE_S

    def close(self) -> None:
        self._mirror.forget(self)


class SshSpool:
    """The output of an attempt: lengths as they were told, bytes when they are asked for."""

    def __init__(self, attempt: str, link: FarLink) -> None:
        self._attempt = attempt
        self._link = link
        self._mirror = link.mirror

    async def size(self, name: str) -> int:
        state = self._mirror.states.get(self._attempt)
        return 0 if state is None else state.sizes.get(name, 0)

    async def read(self, name: str, offset: int, length: int) -> bytes:
        if offset >= await self.size(name):
            return b""
        return await self._link.channel.read(self._attempt, name, offset, length)

    async def read_behind(self, room: int, name: str, offset: int, length: int) -> bytearray:
        return bytearray(room) + await self.read(name, offset, length)

    def acked(self) -> dict[str, int]:
        state = self._mirror.states.get(self._attempt)
        return {} if state is None else dict(state.acked)

    def save_acked(self, offsets: dict[str, int]) -> None:
        state = self._mirror.states.get(self._attempt)
        if state is not None:
            self._mirror.states[self._attempt] = msgspec.structs.replace(state, acked=offsets)
            self._link.tell("acked", attempt=self._attempt, offsets=offsets)

    def close(self) -> None:
        """Nothing is open."""
