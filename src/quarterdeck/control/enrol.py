"""Enrolment: a join token and a key made on the node become an identity on the fabric."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from quarterdeck.control.access import MANUAL
from quarterdeck.control.agentless import AgentlessNodes
from quarterdeck.control.observe import Fleet
from quarterdeck.control.parts import PASS_TTL_S
from quarterdeck.control.step import write_guarded
from quarterdeck.core.ids import check_name, node_id
from quarterdeck.core.model import Node
from quarterdeck.errors import Denied, Invalid, Unavailable
from quarterdeck.fabric.identity import verify
from quarterdeck.service import Clock
from quarterdeck.settings import is_loopback, join_listen
from quarterdeck.store import access as access_store
from quarterdeck.store import node as node_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import NodeEnrolled, Telemetry
from quarterdeck.wire.enrol import AWAITS_APPROVAL, Credentials, Enrolment, signed_part

NATS_PORT = 4222
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

    async def enrol(self, request: Enrolment) -> Credentials:
        """Admit a node, or renew one. Raises Invalid or Denied, and Unavailable (`AWAITS_APPROVAL`)
        while nobody has approved it: the node asks again until somebody does.

        A known key needs no token, and keeps its id for ever; a removed one never comes back, with
        whatever token. A repeat of somebody's recorded enrolment changes nothing, and its answer
        is worth nothing without the private key.
        """
        now = self._clock.now()
        self._check(request)
        id = node_id(request.public_key)
        known = await self._database.read(lambda tx: node_store.get(tx, id))
        if known is None:
            known = await self._admit(request)
        elif known.removed:
            raise Denied(
                "node_removed",
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
                raise Denied("wrong_token", "This token can't enrol nodes: a join token is needed.")
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
                access_store.use(tx, principal.id)
            return enrolled

        enrolled = await write_guarded(self._database, unit)
        if enrolled.removed:  # while it asked
            raise Denied("node_removed", f"Node {enrolled.name} was removed from this fleet.")
        self._fleet.know(enrolled)
        self._telemetry.emit(NodeEnrolled(node=enrolled.id, name=enrolled.name))
        return enrolled

    def _check(self, request: Enrolment) -> None:
        check_name(request.name)
        part = signed_part(request.public_key, request.name, request.token)
        if not verify(request.public_key, part, request.signature):
            raise Denied("bad_signature", "The enrolment is not signed by the key it names.")


def seen_from(url: str, via: str) -> str:
    """The fabric's URL for a node that reaches the server at host `via`: a fabric beside the server
    is known here by its loopback address, which means another machine there."""
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or "") or not via or is_loopback(via):
        return url
    if HOST.fullmatch(via) is None:
        raise Invalid("via", f"{via[:80]!r} is not the name or address of a host.")
    return f"{parts.scheme}://{join_listen(via, parts.port or NATS_PORT)}"
