"""Routes of locks: who holds what, and the claims of `qd lock`."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from litestar import Request as HttpRequest
from litestar import Router, delete, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta

from quarterdeck.api.auth import Namespace
from quarterdeck.api.body import Body, Request
from quarterdeck.control.lock import Found, new_claim
from quarterdeck.control.main import Server
from quarterdeck.core import lock as rules
from quarterdeck.core.lock import Claim, Glance, Who
from quarterdeck.errors import Invalid
from quarterdeck.store.access import Principal

MAX_WAIT_S = 10.0
SECONDS = r"^[0-9]{1,3}(\.[0-9]{1,3})?s?$"

Api = HttpRequest[None, Principal, State]
Word = Annotated[str, Meta(max_length=255)]


class ClaimRequest(Request, frozen=True, kw_only=True):
    """A slot of a lock that at most `slots` share. `id` is chosen by who asks, so that a repeat
    asks once; `otherwise` says what happens when no slot is free."""

    id: Annotated[str, Meta(pattern="^[0-9a-z]{16,64}$")]
    slots: Annotated[int, Meta(ge=1, le=rules.MAX_SLOTS)] = 1
    otherwise: Literal["queue", "fail"] = "queue"
    host: Word
    pid: Annotated[int, Meta(ge=0, le=1 << 31)]
    user: Annotated[str, Meta(max_length=64)]
    label: Word = ""
    attempt: Annotated[str, Meta(max_length=40)] = ""


class HolderBody(Body, frozen=True, kw_only=True):
    """A holder, or one that waits (`since` is null). `leaving`: it was told to give way."""

    id: str
    slots: int
    host: str
    pid: int
    user: str
    label: str
    attempt: str
    asked_at: datetime
    since: datetime | None
    leaving: bool


class LockBody(Body, frozen=True, kw_only=True):
    """`slots`: how many may hold it now, the smallest number that a holder named. The lists are cut
    at 200, and in the answer to a claim at the first 5 holders; the counts are not."""

    name: str
    slots: int
    holding: int
    waiting: int
    holders: tuple[HolderBody, ...]
    waiters: tuple[HolderBody, ...]


class LockList(Body, frozen=True, kw_only=True):
    items: tuple[LockBody, ...]


class ClaimBody(Body, frozen=True, kw_only=True):
    """Where a claim stands: `holding`, `leaving`, or its position in the queue, from 1."""

    id: str
    standing: str
    lock: LockBody


@get("/locks")
async def list_locks(
    request: Api, server: NamedDependency[Server], namespace: Namespace = None
) -> LockList:
    """Every lock that somebody holds or awaits, by name."""
    found = await server.locks.every(request.auth.at(namespace))
    return LockList(items=tuple(lock_body(lock) for lock in found))


@get("/locks/{name:str}")
async def show_lock(
    name: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    namespace: Namespace = None,
) -> LockBody:
    """One lock with its holders and its queue; nobody may hold it."""
    return lock_body(await server.locks.get(name, by=request.auth.at(namespace)))


@post("/locks/{name:str}/claims")
async def claim_lock(
    name: FromPath[str],
    data: JSONBody[ClaimRequest],
    request: Api,
    server: NamedDependency[Server],
    namespace: Namespace = None,
) -> ClaimBody:
    """Ask for a slot: it is held at once, or the claim queues. Renew it every 5 s."""
    who = Who(host=data.host, pid=data.pid, user=data.user, label=data.label, attempt=data.attempt)
    by = request.auth.at(namespace)
    claim = new_claim(data.id, data.slots, who, by=by, now=server.clock.now())
    found = await server.locks.ask(name, claim, queue=data.otherwise == "queue", by=by)
    return _claim_body(data.id, found)


@post("/locks/{name:str}/claims/{claim:str}/renew", status_code=200)
async def renew_claim(
    name: FromPath[str],
    claim: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    seen: Annotated[str, QueryParameter(max_length=16)] = "",
    wait: Annotated[str, QueryParameter(max_length=16, pattern=SECONDS)] = "0s",
    namespace: Namespace = None,
) -> ClaimBody:
    """Keep a claim for 20 s more. `?seen=3&wait=5s` answers when it does not stand there any more,
    or after that."""
    by = request.auth.at(namespace)
    found = await server.locks.renewed(name, claim, wait_s=_seconds(wait), seen=seen, by=by)
    return _claim_body(claim, found)


@delete("/locks/{name:str}/claims/{claim:str}", status_code=200)
async def release_claim(
    name: FromPath[str],
    claim: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    namespace: Namespace = None,
) -> LockBody:
    """Give a claim back; the next of the queue starts."""
    by = request.auth.at(namespace)
    await server.locks.release(name, claim, by=by)
    return lock_body(await server.locks.get(name, by=by))


@post("/locks/{name:str}/holders/{holder:str}/unlock", status_code=200)
async def unlock(
    name: FromPath[str],
    holder: FromPath[str],
    request: Api,
    server: NamedDependency[Server],
    at_once: FromQuery[bool] = False,
    namespace: Namespace = None,
) -> HolderBody:
    """Take a claim away (by id, host or host:pid): its command is stopped, then the slot is free.

    With `at_once` the slot is free now, and its command may still run.
    """
    by = request.auth.at(namespace)
    return _holder_body(await server.locks.take_away(name, holder, at_once=at_once, by=by))


def lock_body(lock: Glance) -> LockBody:
    return LockBody(
        name=lock.name,
        slots=lock.slots,
        holding=lock.holding,
        waiting=lock.waiting,
        holders=tuple(_holder_body(claim) for claim in lock.holders),
        waiters=tuple(_holder_body(claim) for claim in lock.waiters),
    )


def _claim_body(id: str, found: Found) -> ClaimBody:
    return ClaimBody(id=id, standing=found.standing, lock=lock_body(found.lock))


def _holder_body(claim: Claim) -> HolderBody:
    return HolderBody(
        id=claim.id,
        slots=claim.slots,
        host=claim.who.host,
        pid=claim.who.pid,
        user=claim.who.user,
        label=claim.who.label,
        attempt=claim.who.attempt,
        asked_at=claim.asked_at,
        since=claim.held_at,
        leaving=claim.leaving,
    )


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?)s?", text)
    if found is None:
        raise Invalid("wait", f"{text!r} is not a time to wait: write for instance 5s.")
    return min(float(found[1]), MAX_WAIT_S)


router = Router(
    path="/v1",
    route_handlers=[
        list_locks,
        show_lock,
        claim_lock,
        renew_claim,
        release_claim,
        unlock,
    ],
)
