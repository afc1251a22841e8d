"""Locks among programs: ask, beat, release, and the loop that removes claims which fell silent.

The loop waits for: a tick of `LOOK_S`. Every server looks at all beats; whichever sees a claim
silent for long enough removes it, guarded by the beat it saw (core/lock.py has the rules). Who
waits for a slot waits in `renewed`, which a commit of any server wakes when it concerns the claim:
a thousand may wait, and the holders' beats share the writer with theirs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial

from quarterdeck.control.changes import Changes
from quarterdeck.control.step import write_guarded
from quarterdeck.core import lock as rules
from quarterdeck.core.lock import (
    Asked,
    Claim,
    Event,
    FellSilent,
    Glance,
    Heard,
    LeaveAsked,
    Lock,
    Released,
)
from quarterdeck.core.model import Record
from quarterdeck.errors import Conflict, Denied, Invalid, NotFound
from quarterdeck.service import Clock, Poke
from quarterdeck.store import lock as lock_store
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import ClaimSilent, ClaimToldToLeave, Telemetry

LOOK_AGAIN_S = 5.0  # where the word of another server was lost
DRAIN_LOOK_S = 1.0
NAMED = 5
SHOWN = 200  # of each kind; the counts are always whole
CLAIM_ID = re.compile(r"[0-9a-z]{16,64}")


class Found(Record, frozen=True, kw_only=True):
    """Where a claim stands (`holding`, `leaving`, or its position in the queue), and its lock."""

    standing: str
    lock: Glance


class Locks:
    """What the API calls."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        telemetry: Telemetry,
        changes: Changes,
        draining: asyncio.Event,
    ) -> None:
        self._database = database
        self._clock = clock
        self._telemetry = telemetry
        self._changes = changes
        self._draining = draining

    async def every(self, by: Principal) -> list[Glance]:
        """All locks of a namespace that somebody claims, by name."""
        return await self._database.read(
            lambda tx: lock_store.glances(tx, by.namespace, holders=SHOWN, waiters=SHOWN)
        )

    async def get(self, name: str, *, by: Principal) -> Glance:
        """A lock, also one that nobody claims. Raises Invalid for what can't be a name."""
        rules.check_name(name)
        return await self._database.read(
            lambda tx: _glance(tx, by.namespace, name, holders=SHOWN, waiters=SHOWN)
        )

    async def ask(self, name: str, claim: Claim, *, queue: bool, by: Principal) -> Found:
        """Claim a slot; a repeat with the same id changes nothing.

        Raises Invalid, and Conflict when there is no room: in the queue, or now without `queue`.
        """
        rules.check_name(name)
        if CLAIM_ID.fullmatch(claim.id) is None:
            raise Invalid("claim_id", "The id of a claim is 16 to 64 lower-case letters or digits.")

        def check(lock: Lock) -> Event:
            if (known := rules.find(lock, claim.id)) is not None:
                _of(known, by)
            elif len(lock.claims) >= rules.MAX_CLAIMS:
                raise Conflict("lock_full", f"{len(lock.claims)} claims wait for lock {name}.")
            return Asked(claim=claim, queue=queue)

        lock = await self._step(by.namespace, name, check)
        found = rules.standing(lock, claim.id)
        if found is None:
            raise Conflict("lock_held", f"Lock {name} is held by {named(lock)}.")
        return Found(standing=found.word, lock=rules.glance(lock, holders=NAMED, waiters=0))

    async def renewed(
        self, name: str, id: str, *, wait_s: float, seen: str, by: Principal
    ) -> Found:
        """Write a beat of a claim; then wait, at most `wait_s`, until it is not what was `seen`.

        `seen` is the standing that was answered before; one far back in the queue hears of its new
        place when the wait is over. Raises NotFound for a claim that is over.
        """
        until = self._clock.monotonic() + wait_s
        with self._changes.watch(_topic(id)) as poke:
            await self._beat(name, id, by)
            while True:
                left_s = until - self._clock.monotonic()
                last = left_s <= 0 or self._draining.is_set()
                known = "" if last else seen
                look = partial(_look, namespace=by.namespace, name=name, id=id, seen=known)
                found = await self._database.read(look)
                if found is not None:
                    return found
                await self._rest(poke, min(left_s, LOOK_AGAIN_S))

    async def release(self, name: str, id: str, *, by: Principal) -> None:
        """Give a claim back; one that is over already is no error. Raises Denied."""

        def check(lock: Lock) -> Event:
            if (known := rules.find(lock, id)) is not None:
                _of(known, by)
            return Released(id=id)

        await self._step(by.namespace, name, check)

    async def take_away(self, name: str, word: str, *, at_once: bool, by: Principal) -> Claim:
        """Tell the claim that `word` names (its id, the beginning of it, HOST or HOST:PID) to end.

        It keeps its slot until its command has ended, unless `at_once`. Raises NotFound, Conflict.
        """
        chosen: list[Claim] = []

        def choose(lock: Lock) -> Event:
            chosen[:] = [_named(lock, word)]
            return Released(id=chosen[0].id) if at_once else LeaveAsked(id=chosen[0].id)

        await self._step(by.namespace, name, choose)
        claim = chosen[0]
        self._telemetry.emit(
            ClaimToldToLeave(lock=name, claim=claim.id, host=claim.who.host, by=by.id)
        )
        return claim

    async def watch_beats(self) -> None:
        """Loop: remove claims whose beats have stopped."""
        heard: dict[str, Heard] = {}
        looked_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(rules.LOOK_S)
            found = await self._database.read(lock_store.beats)
            now = self._clock.monotonic()
            heard = rules.look(
                heard, ((id, beat) for _, _, id, beat in found), now, looked_at=looked_at
            )
            looked_at = now
            for namespace, name, id, _ in found:
                if rules.silent(heard[id], now):
                    await self._remove(namespace, name, id, heard[id].beat)

    async def _beat(self, name: str, id: str, by: Principal) -> None:
        beat = partial(lock_store.beat, namespace=by.namespace, name=name, id=id, by=by.id)
        if await self._database.write(beat):
            return
        found = await self._database.read(
            lambda tx: lock_store.standing(tx, by.namespace, name, id)
        )
        raise _over(name) if found is None else _other_claim()

    async def _rest(self, poke: Poke, wait_s: float) -> None:
        """Until the claim has changed, the time is over, or the server is about to stop."""
        until = self._clock.monotonic() + wait_s
        while (left_s := until - self._clock.monotonic()) > 0 and not self._draining.is_set():
            if await poke.wait(min(left_s, DRAIN_LOOK_S)):
                return

    async def _remove(self, namespace: str, name: str, id: str, beat: int) -> None:
        after = await self._step(namespace, name, lambda _: FellSilent(id=id, beat=beat))
        if rules.find(after, id) is None:
            self._telemetry.emit(ClaimSilent(lock=name, claim=id))

    async def _step(self, namespace: str, name: str, event: Callable[[Lock], Event]) -> Lock:
        now: datetime = self._clock.now()

        def write(tx: Tx) -> tuple[Lock, Lock]:
            before = lock_store.load(tx, namespace, name)
            after = rules.step(before, event(before), now)
            lock_store.save(tx, before, after)
            return before, after

        before, after = await write_guarded(self._database, write)
        for id in rules.concerned(before, after):
            self._changes.tell(_topic(id))
        return after


def named(lock: Lock) -> str:
    """The holders in words, as far as they fit into a sentence."""
    words = [
        f"{claim.who.label or claim.who.user} on {claim.who.host} (pid {claim.who.pid})"
        for claim in lock.holders[:NAMED]
    ]
    more = len(lock.holders) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "") if words else "nobody"


def new_claim(id: str, slots: int, who: rules.Who, *, by: Principal, now: datetime) -> Claim:
    """A claim that was not placed yet."""
    return Claim(id=id, slots=slots, who=who, by=by.id, asked_at=now)


def _look(tx: Tx, namespace: str, name: str, id: str, seen: str) -> Found | None:
    """Where a claim stands; None when that was `seen`. Raises NotFound."""
    found = lock_store.standing(tx, namespace, name, id)
    if found is None:
        raise _over(name)
    if found.word == seen:
        return None
    return Found(standing=found.word, lock=_glance(tx, namespace, name, holders=NAMED, waiters=0))


def _glance(tx: Tx, namespace: str, name: str, *, holders: int, waiters: int) -> Glance:
    found = lock_store.glances(tx, namespace, name, holders=holders, waiters=waiters)
    return found[0] if found else Glance(name=name)


def _of(claim: Claim, by: Principal) -> None:
    if claim.by != by.id:
        raise _other_claim()


def _other_claim() -> Denied:
    return Denied("other_claim", "This claim was made with another token; only that may use it.")


def _over(name: str) -> NotFound:
    return NotFound(
        "claim_over",
        f"This claim to lock {name} is over: it was given back, taken away, or not renewed for "
        f"{rules.GONE_AFTER_S:g} s.",
    )


def _named(lock: Lock, word: str) -> Claim:
    exact = [claim for claim in lock.claims if claim.id == word]
    found = exact or [
        claim
        for claim in lock.claims
        if word in (claim.who.host, f"{claim.who.host}:{claim.who.pid}")
        or (len(word) >= 4 and claim.id.startswith(word))
    ]
    if not found:
        raise NotFound(
            "claim_not_found",
            f"Nobody called {word[:80]!r} holds or awaits lock {lock.name}; "
            f"`qd lock --list {lock.name}` shows who does.",
        )
    if len(found) > 1:
        ids = ", ".join(f"{claim.who.host}:{claim.who.pid}" for claim in found[:NAMED])
        raise Conflict("ambiguous_claim", f"{word!r} has several claims: say which ({ids}).")
    return found[0]


def _topic(id: str) -> str:
    return f"claim:{id}"
