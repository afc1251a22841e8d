"""Locks with a name: who holds a slot, who waits, in which order; and when a lease is over.

Rules:
1. A claim gets a ticket when it asks; of those that wait the lowest is served next, nobody
   overtakes.
2. Each claim says how many may hold the lock at once (`slots`). The next one starts when, with it,
   no more hold the lock than the smallest `slots` among the holders and itself. So nobody ever
   shares the lock with more than it has agreed to, and whoever waits is served once those before
   it have gone.
3. A claim lives by its beats, also while it waits. A server that saw the same beat for
   `GONE_AFTER_S` of its own monotonic time removes it; a server that could not look for a while
   begins to count anew.
4. A holder counts from the begin of its last beat that was written: at `TERM_AFTER_S` it tells its
   command to stop, at `KILL_AFTER_S` it kills it. Both lie before `GONE_AFTER_S`, so the slot is
   empty before it is given away. No wall clocks of two machines are compared.
5. A claim that is told to leave keeps its slot until it has left or its beats stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

import msgspec

from quarterdeck.core.model import Record
from quarterdeck.errors import Invalid

BEAT_S = 5.0
TERM_AFTER_S = 13.0
KILL_AFTER_S = 18.0
GONE_AFTER_S = 20.0
LOOK_S = 1.0
MAX_SLOTS = 10_000
MAX_CLAIMS = 10_000
NEAR = 20  # of the queue are told at once that it moved
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")


class Who(Record, frozen=True, kw_only=True):
    """Whose claim it is, as its wrapper says."""

    host: str
    pid: int
    user: str
    label: str = ""
    attempt: str = ""


class Claim(Record, frozen=True, kw_only=True):
    """One wrapper's place: in the queue, or a slot when `holding`. `by` is the id of its token."""

    id: str
    slots: int
    who: Who
    by: str
    asked_at: datetime
    ticket: int = 0
    holding: bool = False
    leaving: bool = False
    held_at: datetime | None = None
    beat: int = 0


class Lock(Record, frozen=True, kw_only=True):
    """All claims to one name, by ticket. `version` 0: there is none yet."""

    namespace: str
    name: str
    version: int = 0
    next_ticket: int = 1
    claims: tuple[Claim, ...] = ()

    @property
    def holders(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if claim.holding)

    @property
    def waiters(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if not claim.holding)


class Standing(Record, frozen=True, kw_only=True):
    """Where one claim stands: it holds a slot, or `position` is its place in the queue, from 1."""

    holding: bool
    leaving: bool
    position: int

    @property
    def word(self) -> str:
        """`holding`, `leaving`, or the position."""
        if self.holding:
            return "leaving" if self.leaving else "holding"
        return str(self.position)


class Glance(Record, frozen=True, kw_only=True):
    """A lock in numbers, and the first of its holders and of its queue."""

    name: str
    slots: int = 0
    holding: int = 0
    waiting: int = 0
    holders: tuple[Claim, ...] = ()
    waiters: tuple[Claim, ...] = ()


class Asked(Record, frozen=True, kw_only=True):
    """Somebody wants a slot; without `queue` now or not at all."""

    claim: Claim
    queue: bool = True


class Released(Record, frozen=True, kw_only=True):
    """A claim was given back, or taken away at once."""

    id: str


class FellSilent(Record, frozen=True, kw_only=True):
    """A server has seen this beat of a claim for `GONE_AFTER_S`."""

    id: str
    beat: int


class LeaveAsked(Record, frozen=True, kw_only=True):
    """An operator wants a claim to end."""

    id: str


Event = Asked | Released | FellSilent | LeaveAsked


def step(lock: Lock, event: Event, now: datetime) -> Lock:
    """The claims after an event. `now` only says since when a slot is held."""
    match event:
        case Asked(claim=claim, queue=queue):
            return _asked(lock, claim, now, queue=queue)
        case Released(id=id):
            return _settled(_without(lock, id), now)
        case FellSilent(id=id, beat=beat):
            found = find(lock, id)
            silent = found is not None and found.beat == beat
            return _settled(_without(lock, id), now) if silent else lock
        case LeaveAsked(id=id):
            found = find(lock, id)
            if found is None:
                return lock
            if not found.holding:
                return _settled(_without(lock, id), now)
            return _with(lock, msgspec.structs.replace(found, leaving=True))
        case _:
            assert_never(event)


def find(lock: Lock, id: str) -> Claim | None:
    """The claim with an id."""
    return next((claim for claim in lock.claims if claim.id == id), None)


def standing(lock: Lock, id: str) -> Standing | None:
    """Where a claim stands; None for one that is over."""
    claim = find(lock, id)
    if claim is None:
        return None
    position = 0 if claim.holding else lock.waiters.index(claim) + 1
    return Standing(holding=claim.holding, leaving=claim.leaving, position=position)


def glance(lock: Lock, *, holders: int, waiters: int) -> Glance:
    """What there is to see of a lock, with at most so many of each kind."""
    return Glance(
        name=lock.name,
        slots=slots(lock),
        holding=len(lock.holders),
        waiting=len(lock.waiters),
        holders=lock.holders[:holders],
        waiters=lock.waiters[:waiters],
    )


def concerned(before: Lock, after: Lock) -> list[str]:
    """The claims to wake after a step: those it moved or ended, and the first of the queue whose
    place it changed. Who stands further back reads its place with its next beat."""
    old = {claim.id: claim for claim in before.claims}
    new = {claim.id: claim for claim in after.claims}
    moved = [id for id, claim in old.items() if new.get(id) != claim]
    places = {claim.id: place for place, claim in enumerate(before.waiters)}
    near = [
        claim.id
        for place, claim in enumerate(after.waiters[:NEAR])
        if places.get(claim.id) != place
    ]
    return [*moved, *near]


def slots(lock: Lock) -> int:
    """How many may hold the lock now: the smallest number that a holder, or else the first of the
    queue, has named; 0 without claims."""
    holders = lock.holders or lock.claims[:1]
    return min((claim.slots for claim in holders), default=0)


def check_name(name: str) -> str:
    """Raises Invalid for what can't be the name of a lock."""
    if NAME.fullmatch(name) is None:
        raise Invalid(
            "lock_name",
            f"{name[:80]!r} can't be the name of a lock: use 1 to 128 letters, digits and _.:@-, "
            "beginning with a letter or digit.",
        )
    return name


class Heard(Record, frozen=True, kw_only=True):
    """A claim as one server sees it: at this beat since `since` (its monotonic seconds)."""

    beat: int
    since: float


def look(
    before: dict[str, Heard], beats: Iterable[tuple[str, int]], now: float, *, looked_at: float
) -> dict[str, Heard]:
    """What is known after all beats were read again; `looked_at` is when that was done before."""
    if now - looked_at > 3 * LOOK_S:  # claims could not be heard either: give them all their time
        before = {}
    seen = {}
    for id, beat in beats:
        known = before.get(id)
        same = known is not None and known.beat == beat
        seen[id] = known if known is not None and same else Heard(beat=beat, since=now)
    return seen


def silent(heard: Heard, now: float) -> bool:
    """Whether a claim is over."""
    return now - heard.since >= GONE_AFTER_S


def _asked(lock: Lock, claim: Claim, now: datetime, *, queue: bool) -> Lock:
    if find(lock, claim.id) is not None:  # a repeat
        return lock
    placed = msgspec.structs.replace(claim, ticket=lock.next_ticket, holding=False)
    after = msgspec.structs.replace(
        lock, claims=(*lock.claims, placed), next_ticket=lock.next_ticket + 1
    )
    after = _settled(after, now)
    found = find(after, claim.id)
    return after if queue or (found is not None and found.holding) else lock


def _settled(lock: Lock, now: datetime) -> Lock:
    """Serve the queue in its order as far as there is room."""
    while lock.waiters:
        first = lock.waiters[0]
        room = min([first.slots, *(claim.slots for claim in lock.holders)])
        if len(lock.holders) >= room:
            break
        lock = _with(lock, msgspec.structs.replace(first, holding=True, held_at=now))
    return lock


def _with(lock: Lock, changed: Claim) -> Lock:
    claims = tuple(changed if claim.id == changed.id else claim for claim in lock.claims)
    return msgspec.structs.replace(lock, claims=claims)


def _without(lock: Lock, id: str) -> Lock:
    return msgspec.structs.replace(
        lock, claims=tuple(claim for claim in lock.claims if claim.id != id)
    )
