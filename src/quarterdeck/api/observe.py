"""Routes of the fleet and of the server itself: nodes, enrolment, health."""

from __future__ import annotations

from litestar import Response, Router, get, post

from quarterdeck.api.auth import PUBLIC
from quarterdeck.api.schema import Body, NodeBody, node_body
from quarterdeck.control.main import Server
from quarterdeck.wire.enrol import Credentials, Enrolment


class NodeList(Body, frozen=True, kw_only=True):
    items: tuple[NodeBody, ...]


class Health(Body, frozen=True, kw_only=True):
    status: str
    problem: str = ""


@get("/nodes")
async def list_nodes(server: Server) -> NodeList:
    """Every node of the fleet with its state and figures, by name."""
    now = server.clock.now()
    return NodeList(items=tuple(node_body(node, now) for node in server.fleet.every()))


@post("/enrol", opt={PUBLIC: True}, status_code=200)
async def enrol(data: Enrolment, server: Server) -> Credentials:
    """Admit a node with a join token and a key of its own, or renew its pass to the fabric."""
    return await server.enrolments.enrol(data)


@get("/healthz", opt={PUBLIC: True})
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@get("/readyz", opt={PUBLIC: True})
async def readyz(server: Server) -> Response[Health]:
    """The server can do its work: 200, else 503 with the reason."""
    problem = server.ready()
    body = Health(status="unready" if problem else "ready", problem=problem)
    return Response(body, status_code=503 if problem else 200)


router = Router(path="/v1", route_handlers=[list_nodes, enrol])
probes = Router(path="/", route_handlers=[healthz, readyz])
