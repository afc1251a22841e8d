"""Puts together who belongs to the fleet: nodes, enrolments, leaf nodes, tokens, removals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quarterdeck.control.access import Tokens
from quarterdeck.control.agentless import AgentlessNodes
from quarterdeck.control.changes import Changes
from quarterdeck.control.enrol import Enrolments
from quarterdeck.control.ingest import Ingest
from quarterdeck.control.leaf import LeafEnrolments
from quarterdeck.control.lease import Leases
from quarterdeck.control.node import Nodes
from quarterdeck.control.observe import Fleet
from quarterdeck.control.orders import Orderer
from quarterdeck.control.parts import Parts
from quarterdeck.control.principals import Principals
from quarterdeck.control.remove import Removals
from quarterdeck.control.uses import TokenUses
from quarterdeck.core.brake import Brake
from quarterdeck.service import Clock, Poke, Services
from quarterdeck.store.base import Database
from quarterdeck.telemetry import Telemetry


class Admission:
    """The services that say who may come in, and who must go."""

    def __init__(
        self,
        *,
        parts: Parts,
        database: Database,
        fleet: Fleet,
        orderer: Orderer,
        ingest: Ingest,
        services: Services,
        leases: Leases,
        changes: Changes,
        clock: Clock,
        telemetry: Telemetry,
        dispatch: Poke,
        new_id: Callable[[], str],
        fingerprint: Callable[[], str],
        draining: asyncio.Event,
    ) -> None:
        self.nodes = Nodes(
            database=database, fleet=fleet, leases=leases, telemetry=telemetry, dispatch=dispatch
        )
        self.agentless = AgentlessNodes(
            database=database,
            fleet=fleet,
            orderer=orderer,
            services=services,
            leases=leases,
            changes=changes,
            clock=clock,
            telemetry=telemetry,
            new_id=new_id,
        )
        self._assemble_joining(parts, database, fleet, clock, telemetry, draining)
        self.uses = TokenUses(database=database, clock=clock)
        self.principals = Principals(
            database=database, clock=clock, services=services, changes=changes, uses=self.uses
        )
        self.tokens = Tokens(
            database=database,
            clock=clock,
            telemetry=telemetry,
            new_id=new_id,
            fingerprint=fingerprint,
            revoked=self.principals.revoked,
        )
        self.removals = Removals(
            database=database,
            fleet=fleet,
            ingest=ingest,
            clock=clock,
            telemetry=telemetry,
            revoke=parts.revoke,
        )

    def _assemble_joining(
        self,
        parts: Parts,
        database: Database,
        fleet: Fleet,
        clock: Clock,
        telemetry: Telemetry,
        draining: asyncio.Event,
    ) -> None:
        brake = Brake()
        self.enrolments = Enrolments(
            database=database,
            fleet=fleet,
            agentless=self.agentless,
            clock=clock,
            telemetry=telemetry,
            mint=parts.mint,
            fabric_urls=parts.fabric_urls,
            order_keys=parts.order_keys,
            fabric_ca=parts.fabric_ca,
            websocket_urls=parts.websocket_urls,
            brake=brake,
        )
        self.leaves = LeafEnrolments(
            database=database,
            clock=clock,
            leaves=parts.leaves,
            urls=parts.websocket_urls,
            brake=brake,
            draining=draining,
        )
