"""Agentless nodes: what was ordered, brought to the nodes that reach them, and what those say.

Waits for: orders to add or remove one here and on other servers, beats of nodes that have another
list than the one that is wanted, and a tick of `TICK_S` for what was lost of these. The database
says what is wanted; a node gets its whole list from its home server, writes it down and names its
version in each beat. A list that it does not name is sent again, after waits that grow; what one
node does never holds up another.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import partial

import msgspec

from quarterdeck.control.changes import Changes
from quarterdeck.control.lease import Leases
from quarterdeck.control.node import named
from quarterdeck.control.observe import Fleet
from quarterdeck.control.orders import Orderer
from quarterdeck.core import liveness
from quarterdeck.core.agentless import Agentless
from quarterdeck.core.ids import node_id
from quarterdeck.core.model import Node
from quarterdeck.core.states import NodeState
from quarterdeck.errors import Denied, Invalid, NotFound, Unavailable
from quarterdeck.fabric.identity import verify
from quarterdeck.service import Backoff, Clock, Poke, Services
from quarterdeck.store import agentless as agentless_store
from quarterdeck.store import node as node_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.telemetry import NodeEnrolled, Telemetry
from quarterdeck.wire.agentless import (
    PROBLEM_LENGTH,
    PROOF,
    AgentlessKept,
    AgentlessReport,
    KeepAgentless,
    agentless_message,
    vouched_part,
)
from quarterdeck.wire.codec import encode
from quarterdeck.wire.enrol import Enrolment

TICK_S = 5.0
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 20.0
KEPT_WAIT_S = 10.0  # in which the beats name a list that the node says it keeps
TOPIC = "agentless"
EVERY = "*"


class AgentlessNodes:
    """`deliver` is the loop; the rest is called by the API, by enrolments and by beats."""

    def __init__(
        self,
        *,
        database: Database,
        fleet: Fleet,
        orderer: Orderer,
        services: Services,
        leases: Leases,
        changes: Changes,
        clock: Clock,
        telemetry: Telemetry,
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._fleet = fleet
        self._orderer = orderer
        self._services = services
        self._leases = leases
        self._changes = changes
        self._clock = clock
        self._telemetry = telemetry
        self._new_id = new_id
        self._known: dict[str, Agentless] = {}
        self._of_node: dict[str, str] = {}
        self._reports: dict[str, AgentlessReport] = {}
        self._bringing: dict[str, Poke] = {}  # for each list on its way: it has changed
        self._poke = Poke()
        fleet.agentless_heard.append(self._reported)
        changes.on_foreign(self._changed_elsewhere)

    async def add(self, wanted: Agentless) -> Agentless:
        """Order one, or change the one at the same place. `via` may be a name. Raises NotFound, and
        Conflict for a name of several, Invalid for a node that is agentless itself."""
        via = named(self._fleet.every(), wanted.via)
        if via.facts.via:
            raise Invalid(
                "via_agentless",
                f"Node {via.name} has no agent itself: name one that has, with --via.",
            )
        fresh = msgspec.structs.replace(
            wanted, id=self._new_id(), via=via.id, created_at=self._clock.now()
        )
        kept = await self._database.write(partial(agentless_store.order, wanted=fresh))
        self._known[kept.id] = kept
        self.look(via.id)
        return kept

    def get(self, id: str) -> Agentless:
        """Raises NotFound."""
        found = self._known.get(id)
        if found is None:
            raise NotFound("agentless_not_found", f"There is no agentless node {id!r}.")
        return found

    def look(self, *via: str) -> None:
        """Something was committed here that concerns agentless nodes."""
        self._poke(*(via or (EVERY,)))
        self._changes.tell(TOPIC)

    def problem(self, node: Node) -> str:
        """Why a node is not reached by the one that should; empty for others, and when it is."""
        found = self._known.get(self._of_node.get(node.id, ""))
        return "" if found is None else self.problem_of(found)

    def problem_of(self, one: Agentless) -> str:
        """The same, also of one that has no identity yet."""
        try:
            via = self._fleet.get(one.via)
        except NotFound:
            return "The node that reached it was removed: add it again via another."
        state = liveness.state(via, self._clock.now())
        if state is not NodeState.READY:
            return f"Node {via.name}, which reaches it, is {state.value}."
        report = self._reports.get(one.via)
        return "" if report is None else report.problems.get(one.id, "")[:PROBLEM_LENGTH]

    def waiting(self, one: Agentless) -> bool:
        """Whether nothing can be said yet of what was ordered last."""
        report = self._reports.get(one.via)
        if report is None or report.version != self._wanted(one.via).version:
            return True
        return one.id in report.trying

    async def enrol(self, request: Enrolment) -> Node | None:
        """Admit the node whose proof this is; None when it brings none. Raises Denied."""
        kind, _, rest = request.token.partition("_")
        if kind != PROOF:
            return None
        id, _, rest = rest.partition("_")
        via, _, proof = rest.partition("_")
        node = await self._database.write(lambda tx: self._admit(tx, request, id, via, proof))
        self._telemetry.emit(NodeEnrolled(node=node.id, name=node.name))
        self.look(via)
        return node

    async def deliver(self) -> None:
        """Loop: see the module."""
        while True:
            await self._poke.wait(TICK_S)
            known = await self._database.read(agentless_store.every)
            self._known = {one.id: one for one in known}
            self._of_node = {one.node: one.id for one in known if one.node}
            for via in sorted({one.via for one in known} | self._reports.keys()):
                wanted = self._missing(via)
                if wanted is None:
                    continue
                if via in self._bringing:
                    self._bringing[via](wanted.version)
                elif self._leases.mine(via):
                    changed = self._bringing[via] = Poke()
                    self._services.spawn(self._bring(via, changed), f"agentless list of {via}")

    async def _bring(self, via: str, changed: Poke) -> None:
        """Send a node its list until its beats name it, or another server is its home."""
        backoff, sent = Backoff(FIRST_WAIT_S, MAX_WAIT_S), ""
        try:
            while self._leases.mine(via) and (wanted := self._missing(via)) is not None:
                if wanted.version != sent:
                    backoff.reset()
                sent = wanted.version
                kept = await self._send(via, wanted)
                await self._rest(via, changed, KEPT_WAIT_S if kept else backoff.wait_s(), sent)
        finally:
            del self._bringing[via]

    async def _rest(self, via: str, changed: Poke, wait_s: float, sent: str) -> None:
        """Until the time is over, or another list is wanted, or none is missing."""
        until = self._clock.monotonic() + wait_s
        while (left_s := until - self._clock.monotonic()) > 0:
            if await changed.wait(left_s) - {sent} or self._missing(via) is None:
                return

    def _missing(self, via: str) -> KeepAgentless | None:
        """The list that a node should have; None when it has it, or never said what it has."""
        wanted, report = self._wanted(via), self._reports.get(via)
        return None if report is None or report.version == wanted.version else wanted

    def _wanted(self, via: str) -> KeepAgentless:
        nodes = tuple(agentless_message(one) for one in self._known.values() if one.via == via)
        if not nodes:
            return KeepAgentless(version="", nodes=())
        version = hashlib.sha256(encode(KeepAgentless(version="", nodes=nodes))).hexdigest()[:16]
        return KeepAgentless(version=version, nodes=nodes)

    async def _send(self, via: str, wanted: KeepAgentless) -> bool:
        """Whether the node says that it keeps it."""
        try:
            (answer,) = await self._orderer.ask(via, (wanted,))
        except (Unavailable, Invalid):
            return False
        return isinstance(answer, AgentlessKept)

    def _reported(self, node: str, report: AgentlessReport) -> None:
        """The handler of beats."""
        self._reports[node] = report
        if report.version != self._wanted(node).version:
            self._poke(EVERY)
        elif node in self._bringing:
            self._bringing[node](report.version)

    def _changed_elsewhere(self, topics: tuple[str, ...]) -> None:
        if TOPIC in topics:
            self._poke(EVERY)

    def _admit(self, tx: Tx, request: Enrolment, id: str, via: str, proof: str) -> Node:
        wanted, voucher = agentless_store.get(tx, id), node_store.get(tx, via)
        part = vouched_part(id, request.public_key)
        good = (
            wanted is not None
            and voucher is not None
            and not voucher.removed
            and wanted.via == via
            and verify(voucher.public_key, part, _signature(proof))
        )
        if not good or wanted is None:
            raise Denied("not_vouched", "No node of this fleet vouches for this one.")
        now = self._clock.now()
        key = request.public_key
        node = Node(
            id=node_id(key),
            name=request.name,
            own_name=request.name,
            public_key=key,
            created_at=now,
        )
        node = msgspec.structs.replace(
            node, facts=msgspec.structs.replace(node.facts, place=wanted.place, via=via)
        )
        enrolled = node_store.enrol(tx, node)
        agentless_store.bind(tx, id, enrolled.id)
        return enrolled


def _signature(proof: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(proof)
    except ValueError:
        return b""
