"""Enrolment: a join token and a key made on the node become an identity on the fabric."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from quarterdeck.control.access import MANUAL
from quarterdeck.control.agentless import AgentlessNodes
from quarterdeck.control.observe import Fleet
from quarterdeck.control.parts import PASS_TTL_S
from quarterdeck.control.step import write_guarded
from quarterdeck.core.brake import Brake
from quarterdeck.core.ids import check_name, node_id
from quarterdeck.core.model import Node
from quarterdeck.errors import Denied, Invalid, NotFound, TooOften, Unavailable
from quarterdeck.fabric.identity import verify
from quarterdeck.service import Clock
from quarterdeck.settings import is_loopback, join_listen
from quarterdeck.store import access as access_store
from quarterdeck.store import node as node_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import NodeEnrolled, Telemetry
from quarterdeck.wire.enrol import AWAITS_APPROVAL, Credentials, Enrolment, signed_part

NATS_PORT = 4222
REMOVED = "node_removed"
HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")


class Enrolments:
    """Admits nodes. `mint(node id, public key, now, ttl_s)` makes the JWT."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        agentless: AgentlessNodes,
        clock: Clock,
        telemetry: Telemetry,
        mint: Callable[[str, str, int, int], str],
        fabric_urls: tuple[str, ...],
        order_keys: tuple[str, ...],
        fabric_ca: str,
        brake: Brake,
        websocket_urls: tuple[str, ...] = (),
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._agentless = agentless
        self._clock = clock
        self._telemetry = telemetry
        self._mint = mint
        self._fabric_urls = fabric_urls
        self._order_keys = order_keys
        self._fabric_ca = fabric_ca
        self._websocket_urls = websocket_urls
        self._brake = brake

    async def enrol(self, request: Enrolment, address: str = "") -> Credentials:
        """Admit a node, or renew one. Raises Invalid or Denied, and Unavailable (`AWAITS_APPROVAL`)
        while nobody has approved it: the node asks again until somebody does. Raises TooOften for
        an `address` that failed often; nodes that are known are let through there, so that nobody
        beside them keeps their passes from being renewed.

        A known key needs no token, and keeps its id for ever; a removed one never comes back, with
        whatever token. A repeat of somebody's recorded enrolment changes nothing, and its answer
        is worth nothing without the private key.
        """
        if not self._knows(node_id(request.public_key)):
            hold_off(self._brake, address, self._clock.monotonic())
        try:
            return await self._enrol(request, address)
        except Denied as error:
            if error.code != REMOVED:  # it has its key: nobody guesses
                self._brake.failed(address, self._clock.monotonic())
            raise

    async def _enrol(self, request: Enrolment, address: str) -> Credentials:
        now = self._clock.now()
        self._check(request)
        id = node_id(request.public_key)
        known = await self._database.read(lambda tx: node_store.get(tx, id))
        if known is None:
            known = await self._admit(request)
            self._brake.passed(address)
        elif known.removed:
            raise Denied(
                REMOVED,
                f"Node {known.name} ({id}) was removed from this fleet for ever. To let its "
                "machine join as a new node, give the agent an empty state directory and a "
                "join token.",
            )
        if not known.approved:
            raise Unavailable(
                AWAITS_APPROVAL,
                f"Node {known.name} ({id}) waits for approval: somebody who may runs "
                f"`qd node approve {id}`; then it goes on by itself.",
            )
        jwt = self._mint(id, request.public_key, int(now.timestamp()), PASS_TTL_S)
        return Credentials(
            node=id,
            jwt=jwt,
            fabric_urls=tuple(seen_from(url, request.via) for url in self._fabric_urls),
            order_keys=self._order_keys,
            expires_at=int(now.timestamp()) + PASS_TTL_S,
            fabric_ca=self._fabric_ca,
            websocket_urls=self._websocket_urls,
        )

    async def _admit(self, request: Enrolment) -> Node:
        vouched = await self._agentless.enrol(request)
        if vouched is not None:
            self._fleet.know(vouched)
            return vouched
        now = self._clock.now()

        def unit(tx: Tx) -> Node:
            principal = access_store.principal(tx, request.token, now)
            if principal.kind != "join":
                raise Denied(
                    "wrong_token",
                    f"This token, of kind {principal.kind!r}, can't enrol nodes: make a join token "
                    "with `qd token create --kind join`.",
                )
            node = Node(
                id=node_id(request.public_key),
                name=request.name,
                own_name=request.name,
                public_key=request.public_key,
                created_at=now,
                approved=access_store.get(tx, principal.id).approve != MANUAL,
            )
            enrolled = node_store.enrol(tx, node)
            if enrolled is node:  # no repeat: this one counts
                access_store.use(tx, principal.id, now)
            return enrolled

        enrolled = await write_guarded(self._database, unit)
        if enrolled.removed:  # while it asked
            raise Denied(
                REMOVED,
                f"Node {enrolled.name} was removed from this fleet while it joined: if that was "
                "not meant, give the agent an empty state directory and a join token.",
            )
        self._fleet.know(enrolled)
        self._telemetry.emit(NodeEnrolled(node=enrolled.id, name=enrolled.name))
        return enrolled

    def _knows(self, id: str) -> bool:
        with contextlib.suppress(NotFound):
            return bool(self._fleet.get(id))
        return False

    def _check(self, request: Enrolment) -> None:
        check_name(request.name)
        part = signed_part(request.public_key, request.name, request.token)
        if not verify(request.public_key, part, request.signature):
            raise Denied(
                "bad_signature",
                "The enrolment is not signed by the key it names, so the node is not let in: start "
                "an agent of this version with its own state directory.",
            )


def hold_off(brake: Brake, address: str, now: float) -> None:
    """Raises TooOften while an address has to wait."""
    wait_s = math.ceil(brake.wait_s(address, now))
    if wait_s:
        raise TooOften(
            "too_many_failures",
            f"Too many attempts to join from {address or 'there'} were refused, so this one was "
            f"not looked at: check the token, and try again in {wait_s} s (agents do so alone).",
            retry_after_s=wait_s,
        )


def seen_from(url: str, via: str) -> str:
    """The fabric's URL for a node that reaches the server at host `via`: a fabric beside the server
    is known here by its loopback address, which means another machine there."""
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or "") or not via or is_loopback(via):
        return url
    if HOST.fullmatch(via) is None:
        raise Invalid(
            "via",
            f"{via[:80]!r} is not the name or address of a host: give the agent a --join URL with "
            "the server's name or address.",
        )
    return f"{parts.scheme}://{join_listen(via, parts.port or NATS_PORT)}"
