"""Attempts on this node: accept, start, adopt, stop, follow to the end, report, release.

Theory. Each attempt that is not released has one *tending* coroutine. It looks at the directory
and does what the directory says is next (`next_move`, a pure function), so an agent that was
killed anywhere continues by looking again:

    only the order, lock free      start a shim (unless a stop was asked: then end it unstarted)
    lock held                      adopt: follow until the shim is gone
    started, lock free, no end     the shim was killed: sweep what is left, record `lost`
    end                            send the rest of the output, report, wait for release
    end, lock held                 the shim is about to go; or it watches what could not be killed:
                                   then report now, and once more when that has gone

What an earlier start left is not started or ended before the node has settled (agent/settle.py).
Every change of the directory makes a new snapshot, which the outbox sends until it is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import assert_never

from quarterdeck.agent import ends
from quarterdeck.agent.held import Held, Terms
from quarterdeck.agent.host import Claim, Host
from quarterdeck.agent.outbox import Outbox
from quarterdeck.agent.output import Sender
from quarterdeck.agent.settle import Settling
from quarterdeck.agent.shim import files
from quarterdeck.agent.snapshot import snapshot
from quarterdeck.errors import Broken
from quarterdeck.service import Clock, Poke, Services
from quarterdeck.telemetry import (
    AttemptAdopted,
    AttemptBroken,
    AttemptEnded,
    AttemptStarted,
    Telemetry,
)
from quarterdeck.wire.run import AttemptSnapshot, OrderMessage

RETRY_S = 1.0
SETTLE_LOOK_S = 0.5
OUTPUT = "output"


class Move(Enum):
    """What is to be done next for an attempt."""

    START = auto()
    END_UNSTARTED = auto()
    FOLLOW = auto()
    DECLARE_LOST = auto()
    REPORT_END = auto()


def next_move(held: Held, *, lock_held: bool) -> Move:
    """Decide from the directory and its lock alone."""
    if held.end is not None:
        # the shim of what could not be killed stays to see it end
        return Move.REPORT_END if held.end.kill_failed or not lock_held else Move.FOLLOW
    if lock_held:
        return Move.FOLLOW
    if held.started is not None or held.broken is not None:
        return Move.DECLARE_LOST
    return Move.END_UNSTARTED if held.stop is not None else Move.START


class Trying:
    """Since when a shim is asked for, and why there was none the last time."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.error = ""


class Attempts:
    """All unreleased attempts of this node."""

    def __init__(
        self,
        *,
        host: Host,
        outbox: Outbox,
        settling: Settling,
        new_sender: Callable[[str], Sender],
        services: Services,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._host = host
        self._outbox = outbox
        self._settling = settling
        self._found: set[str] = set()
        self._new_sender = new_sender
        self._services = services
        self._clock = clock
        self._telemetry = telemetry
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._pokes: dict[str, Poke] = {}
        self._said: dict[str, int] = {}
        self._leashed: set[str] = set()
        self._terms: dict[str, Terms] = {}
        self._trying: dict[str, Trying] = {}

    def resume(self) -> None:
        """Take up everything that the journal holds."""
        for attempt in self._host.scan():
            self._found.add(attempt)
            self._tend(attempt)

    def unreleased(self) -> dict[str, int]:
        """Attempts of this node with their revisions."""
        return {attempt: self._said.get(attempt, 1) for attempt in self._tending}

    def contact_counts(self) -> bool:
        """Whether some attempt ends when no server is heard for too long (`lost_after`)."""
        return bool(self._leashed)

    def report(self, attempt: str) -> AttemptSnapshot | None:
        """The present snapshot, None when the journal has no such attempt."""
        held = self._host.look(attempt)
        return None if held is None else snapshot(held)

    async def accept(self, attempt: str, order: OrderMessage) -> AttemptSnapshot:
        """Write the order and begin. Raises OSError: then it was not accepted."""
        await self._host.accept(attempt, order)
        held = self._host.look(attempt)
        assert held is not None
        self._tend(attempt)
        return snapshot(held)

    async def stop(self, attempt: str, wanted: files.Stop) -> AttemptSnapshot | None:
        """Record a stop and tell the shim; a count already known changes nothing."""
        held = self._host.look(attempt)
        if held is None:
            return None
        if held.end is None and (held.stop is None or held.stop.count < wanted.count):
            await self._host.ask(attempt, wanted)
            self._poke(attempt)
        return self.report(attempt)

    async def release(self, attempt: str) -> bool:
        """Delete an ended attempt; False while it has not ended, or what could not be killed is
        still watched."""
        held = self._host.look(attempt)
        if held is not None and (held.end is None or _is_watched(self._host, held)):
            return False
        tending = self._tending.get(attempt)
        if tending is not None:
            tending.cancel()
        self._drop(attempt)
        await self._host.release(attempt)
        return True

    async def signal(
        self, attempt: str, wanted: tuple[files.Signal, ...]
    ) -> AttemptSnapshot | None:
        """Record signals and tell the shim; numbers already known change nothing."""
        held = self._host.look(attempt)
        if held is None:
            return None
        known = max((one.number for one in held.signals), default=0)
        fresh = tuple(one for one in wanted if one.number > known)
        if held.end is None and fresh:
            await self._host.ask(attempt, (*held.signals, *fresh))
            self._poke(attempt)
        return self.report(attempt)

    def _tend(self, attempt: str) -> None:
        if attempt not in self._tending:
            self._pokes[attempt] = Poke()
            task = self._services.loop(f"attempt {attempt}", lambda: self._tending_of(attempt))
            self._tending[attempt] = task

    def _poke(self, attempt: str) -> None:
        if (poke := self._pokes.get(attempt)) is not None:
            poke(attempt)

    def _say(self, attempt: str) -> Held | None:
        """Look, and send a snapshot when the directory has grown a fact; the end is said last."""
        held = self._host.look(attempt)
        if held is None:
            return None
        if held.broken is not None:
            self._telemetry.emit(AttemptBroken(attempt=attempt, error=held.broken))
        ended = held.end is not None
        if held.revision > self._said.get(attempt, 0) and not ended:
            self._said[attempt] = held.revision
            self._outbox.put(snapshot(held))
        return held

    async def _tending_of(self, attempt: str) -> None:
        sender = self._new_sender(attempt)
        self._terms[attempt] = terms = await self._host.terms(attempt)
        if terms.leashed:
            self._leashed.add(attempt)
        try:
            adopting = True
            while (move := await self._next(attempt, sender, adopting=adopting)) is not None:
                adopting = adopting and move is not Move.START
        finally:
            self._leashed.discard(attempt)
            self._terms.pop(attempt, None)
            self._trying.pop(attempt, None)
            sender.close()

    async def _next(self, attempt: str, sender: Sender, *, adopting: bool) -> Move | None:
        """Make the next move and say which; None when there is nothing more to do.

        The directory is read after the lock was taken, and the lock is held until an end is
        written: a shim that leaves in between has told its end by then.
        """
        if self._say(attempt) is None:
            self._drop(attempt)
            return None
        claim = self._host.claim(attempt)
        try:
            held = self._host.look(attempt)
            if held is None:
                return None
            move = next_move(held, lock_held=claim is None)
            wait_s = self._unsettled_s(attempt, move)
            if claim is not None and not wait_s:
                try:
                    await self._with_claim(held, move, claim)
                except OSError as error:  # the disk: tried again, the move is as needed as before
                    self._telemetry.emit(AttemptBroken(attempt=attempt, error=str(error)))
                    await asyncio.sleep(RETRY_S)
        finally:
            if claim is not None:
                claim.close()
        if wait_s:
            await asyncio.sleep(min(wait_s, SETTLE_LOOK_S))
        if move is Move.REPORT_END:
            await self._report_end(attempt, sender)
            if claim is None:
                await self._host.until_shim_gone(attempt)
                await self._report_end(attempt, sender)
            return None
        if move is Move.FOLLOW:
            if adopting:
                self._telemetry.emit(AttemptAdopted(attempt=attempt))
                await self._host.ask(attempt, None)
            await self._follow(attempt, sender)
        return move

    def _unsettled_s(self, attempt: str, move: Move) -> float:
        """How long a move waits because its attempt may live on where this directory was copied
        from."""
        if attempt not in self._found or move in (Move.FOLLOW, Move.REPORT_END):
            return 0.0
        return self._settling.left_s()

    async def _with_claim(self, held: Held, move: Move, claim: Claim) -> None:
        now = self._clock.now().timestamp()
        match move:
            case Move.START:
                await self._start(held, claim)
            case Move.END_UNSTARTED:
                await claim.end(ends.unstarted(held, now))
            case Move.DECLARE_LOST:
                remains = await claim.clear(held)
                now = self._clock.now().timestamp()
                await claim.end(ends.lost(held, now, remains))
            case Move.FOLLOW | Move.REPORT_END:
                pass
            case _ as never:
                assert_never(never)

    def _drop(self, attempt: str) -> None:
        """The directory is gone: the next beats do not name the attempt any more."""
        for known in (self._tending, self._pokes, self._said):
            known.pop(attempt, None)
        self._found.discard(attempt)
        self._outbox.forget(attempt)

    async def _start(self, held: Held, claim: Claim) -> None:
        attempt = held.attempt
        trying = self._trying.setdefault(attempt, Trying(self._clock.monotonic()))
        limit_s = self._terms[attempt].start_timeout_s
        if limit_s > 0 and self._clock.monotonic() - trying.since >= limit_s:
            now = self._clock.now().timestamp()
            end = ends.start_timeout(held, now, limit_s, trying.error)
            await claim.end(end)
            return
        try:
            pid = await claim.start()
        except Broken as error:
            trying.error = error.message
            self._telemetry.emit(AttemptBroken(attempt=attempt, error=error.message))
            await asyncio.sleep(RETRY_S)
            return
        self._telemetry.emit(AttemptStarted(attempt=attempt, pid=pid))

    async def _follow(self, attempt: str, sender: Sender) -> None:
        """Send output as it comes, until the shim is gone."""
        poke = self._pokes[attempt]
        watch = self._host.watch(attempt, lambda: poke(attempt), lambda: poke(OUTPUT))
        gone = self._services.spawn(self._host.until_shim_gone(attempt), f"shim of {attempt}")
        gone.add_done_callback(lambda _: poke(attempt))
        keys: set[str] = set()
        try:
            while not gone.done():
                await sender.advance()  # first: a line does not wait for a look at the facts
                if keys != {OUTPUT} and self._say(attempt) is None:
                    return
                keys = await poke.wait(watch.patience_s)
        finally:
            gone.cancel()
            watch.close()

    async def _report_end(self, attempt: str, sender: Sender) -> None:
        cached = await sender.finish()
        held = self._host.look(attempt)
        if held is None or held.end is None:
            return
        self._said[attempt] = held.revision
        self._outbox.put(snapshot(held, cached=cached))
        self._telemetry.emit(
            AttemptEnded(attempt=attempt, reason=held.end.reason or "", exit_code=held.end.code)
        )


def _is_watched(host: Host, held: Held) -> bool:
    """Whether a shim still watches what could not be killed."""
    if held.end is None or not held.end.kill_failed:
        return False
    claim = host.claim(held.attempt)
    if claim is not None:
        claim.close()
    return claim is None
