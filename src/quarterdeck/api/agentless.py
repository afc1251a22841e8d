"""Routes of agentless nodes: machines that a node reaches over SSH."""

from __future__ import annotations

from typing import Annotated

from litestar import Request as HttpRequest
from litestar import Router, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from quarterdeck.api.auth import FLEET
from quarterdeck.api.body import Body, Request
from quarterdeck.control.main import Server
from quarterdeck.core import liveness
from quarterdeck.core.agentless import Agentless, check_key, place
from quarterdeck.core.ids import check_name
from quarterdeck.errors import NotFound
from quarterdeck.store.access import Principal

Api = HttpRequest[None, Principal, State]
Text = Annotated[str, Meta(max_length=400)]


class AgentlessRequest(Request, frozen=True, kw_only=True):
    """`place` (`user@host[:port]`) is reached by the node `via`, with the key at `identity` there
    or those of its user. Of the host key either give the fingerprint or the key, or accept the
    first that is offered. `jump` is a host on the way."""

    place: Text
    via: Text
    name: Text = ""
    identity: Annotated[str, Meta(max_length=4096)] = ""
    host_key: Annotated[str, Meta(max_length=4096)] = ""
    jump: Text = ""
    jump_key: Annotated[str, Meta(max_length=4096)] = ""
    accept_new: bool = False


class AgentlessBody(Body, frozen=True, kw_only=True):
    """`node` is its id in the fleet, once it has one; `problem` says why it is not reached; while
    `waiting` neither state nor problem is that of what was ordered last."""

    id: str
    name: str
    place: str
    via: str
    node: str | None
    state: str
    problem: str
    waiting: bool


@post("/agentless", opt={FLEET: True})
async def add_agentless(
    data: JSONBody[AgentlessRequest], request: Api, server: NamedDependency[Server]
) -> AgentlessBody:
    """Add a machine that a node reaches over SSH, or change the one at the same place."""
    to = place(data.place)
    wanted = Agentless(
        id="",
        via=data.via,
        name=check_name(data.name or to.host.replace(":", "-")),
        place=str(to),
        created_at=server.clock.now(),
        created_by=request.auth.id,
        identity=data.identity,
        host_key=check_key(data.host_key) if data.host_key else "",
        jump=str(place(data.jump)) if data.jump else "",
        jump_key=check_key(data.jump_key) if data.jump_key else "",
        accept_new=data.accept_new,
    )
    return _body(await server.agentless.add(wanted), server)


@get("/agentless/{agentless:str}")
async def show_agentless(
    agentless: FromPath[str], server: NamedDependency[Server]
) -> AgentlessBody:
    """One of them, with its state and why it is not reached."""
    return _body(server.agentless.get(agentless), server)


def _body(one: Agentless, server: Server) -> AgentlessBody:
    state = "pending"
    if one.node is not None:
        try:
            node = server.fleet.get(one.node)
        except NotFound:
            state = "removed"
        else:
            state = liveness.state(node, server.clock.now()).value
    return AgentlessBody(
        id=one.id,
        name=one.name,
        place=one.place,
        via=one.via,
        node=one.node,
        state=state,
        problem=server.agentless.problem_of(one),
        waiting=server.agentless.waiting(one),
    )


router = Router(path="/v1", route_handlers=[add_agentless, show_agentless])
