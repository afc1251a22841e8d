"""What an agent stands on, opened as its settings say: its machine, and its link to the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from quarterdeck.agent.ask import Asker, asked_to_wait_s
from quarterdeck.agent.enrol import Member, Membership
from quarterdeck.agent.host import Host
from quarterdeck.agent.local import RealHost
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.fabric.nats.fabric import NatsFabric
from quarterdeck.fabric.proxy import proxy_for
from quarterdeck.service import Backoff, Clock, Services, jitter
from quarterdeck.settings import AgentSettings
from quarterdeck.settings.environment import proxy_variables, task_environment
from quarterdeck.telemetry import ApprovalAwaited, FabricTrouble, ServerLost, Telemetry
from quarterdeck.wire.agentless import AgentlessReport, KeepAgentless
from quarterdeck.wire.enrol import AWAITS_APPROVAL

FIRST_WAIT_S = 0.1
MAX_WAIT_S = 5.0


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """This node in its fleet: its id, its fabric (not yet started), whose orders it obeys.

    `begin` notes a session in the state and names those before it. `refresh` fetches a new pass
    and the present addresses of the fabric, or says why it could not; `renew` is the loop that
    does so in time. `vouch` signs with the node's own key; `server` is the URL of the server, and
    the certificate (PEM) that is pinned for it.
    """

    node: str
    fabric: Fabric
    order_keys: Callable[[], tuple[str, ...]]
    refresh: Callable[[], Awaitable[None]]
    renew: Callable[[], Awaitable[None]]
    begin: Callable[[str], str] = lambda _session: ""
    vouch: Callable[[bytes], bytes] = lambda _data: b""
    server: Callable[[], tuple[str, str]] = lambda: ("", "")


class Proxy(Protocol):
    """Machines that this node reaches for the fleet (agent/ssh)."""

    def start(self, link: Link, changed: Callable[[], None]) -> None:
        """Take up what is written down; `changed` is called when there is something to report."""
        ...

    async def keep(self, wanted: KeepAgentless) -> None:
        """Write a new list down and act on it. Raises OSError."""
        ...

    def report(self) -> AgentlessReport: ...


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one agent, not yet started. `join` waits until the node has an identity; it is
    called after the start of the host. Raises Invalid or Denied. `disk` says where its attempts
    lie, when that is not the directory `state`."""

    host: Host
    join: Callable[[], Awaitable[Link]]
    proxy: Proxy | None = None
    disk: str = ""


Opener = Callable[[AgentSettings, Services, Telemetry, Clock], Parts]


def open_parts(
    settings: AgentSettings, services: Services, telemetry: Telemetry, clock: Clock
) -> Parts:
    """This machine, and the fleet that its settings or its state directory name."""
    host = RealHost(Path(settings.state), task_environment())
    return parts_with(host, settings, services, telemetry, clock)


def parts_with(
    host: Host, settings: AgentSettings, services: Services, telemetry: Telemetry, clock: Clock
) -> Parts:
    """A machine, and the fleet that the settings or the state directory name."""
    state = Path(settings.state)

    async def join() -> Link:
        variables = proxy_variables()
        member = Member(state, clock, Asker(settings.server_ca, variables))
        await _enrol(member, settings, telemetry)
        return _link(member, settings.fabric, variables, services, telemetry)

    return Parts(host=host, join=join)


async def _enrol(member: Member, settings: AgentSettings, telemetry: Telemetry) -> None:
    backoff, told = Backoff(FIRST_WAIT_S, MAX_WAIT_S), ""
    while True:
        try:
            await member.open(
                server=settings.join, token=settings.token.reveal(), name=settings.name
            )
            return
        except Unavailable as error:
            if error.message != told:
                told = error.message
                awaited = error.code == AWAITS_APPROVAL
                telemetry.emit((ApprovalAwaited if awaited else ServerLost)(error=told))
            await asyncio.sleep(asked_to_wait_s(error) + backoff.wait_s())


def _addresses(member: Membership, how: str) -> tuple[str, ...]:
    """Where the fabric is, as the setting `fabric` wants it reached. Raises Invalid."""
    told = member.credentials.fabric_urls
    if how == "auto":
        return told + member.websocket_urls
    if how == "tcp":
        return told
    if how != "wss":
        return tuple(url.strip() for url in how.split(","))
    if not member.websocket_urls:
        raise Invalid(
            "no_websocket",
            f"The server at {member.server} offers no WebSocket to its fabric: give it "
            "`websocket_url`, or say fabric = tcp here.",
        )
    return member.websocket_urls


def _link(
    member: Member,
    how: str,
    variables: Mapping[str, str],
    services: Services,
    telemetry: Telemetry,
) -> Link:
    node = member.kept.credentials.node
    fabric = NatsFabric(
        _addresses(member.kept, how),
        node,
        jwt_source=member.jwt,
        signer=member.key.sign,
        spawn=services.spawn,
        random=jitter,
        on_error=lambda text: telemetry.emit(FabricTrouble(who=node, error=text)),
        tls=member.tls,
        proxies=lambda url: proxy_for(url, variables),
    )

    async def refresh() -> None:
        try:
            await member.refresh()
        except Unavailable as error:
            telemetry.emit(ServerLost(error=error.message))
        fabric.move(_addresses(member.kept, how))

    async def renew() -> None:
        """Loop: a new pass at half of its life; the link is made anew to use it."""
        while True:
            await member.until_half_life()
            await member.refresh()
            fabric.reconnect()

    return Link(
        node=node,
        fabric=fabric,
        order_keys=lambda: member.kept.credentials.order_keys,
        refresh=refresh,
        renew=renew,
        begin=member.begin,
        vouch=member.key.sign,
        server=lambda: (member.kept.server, member.kept.server_ca),
    )
