"""Routes of the fleet and of the server itself: nodes, enrolment, health."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Response, Router, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody

from quarterdeck.api.auth import NEEDS, PUBLIC
from quarterdeck.api.schema import Body, NodeBody, node_body
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.wire.enrol import Credentials, Enrolment

FRONT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>quarterdeck</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }
pre { padding: .8rem 1rem; background: #8882; border-radius: .4rem; overflow: auto }
:root { color-scheme: light dark }
</style>
<h1>quarterdeck</h1>
<p>A server runs here. It is used from a terminal:</p>
<pre>qd nodes
qd run -t all -- uptime
qd runs</pre>
<p>Programs use the API under <code>/v1</code>, described in
<a href="/openapi.json">openapi.json</a>. Health: <a href="/readyz">readyz</a>.</p>
</html>
"""


class NodeList(Body, frozen=True, kw_only=True):
    items: tuple[NodeBody, ...]


class Health(Body, frozen=True, kw_only=True):
    status: str
    problem: str = ""


@get("/nodes")
async def list_nodes(server: NamedDependency[Server]) -> NodeList:
    """Every node of the fleet with its state and figures, by name."""
    now = server.clock.now()
    return NodeList(items=tuple(node_body(node, now) for node in server.fleet.every()))


@post("/enrol", opt={PUBLIC: True, NEEDS: Stage.RECORD}, status_code=200)
async def enrol(data: JSONBody[Enrolment], server: NamedDependency[Server]) -> Credentials:
    """Admit a node with a join token and a key of its own, or renew its pass to the fabric."""
    return await server.enrolments.enrol(data)


@get("/", opt={PUBLIC: True}, include_in_schema=False, media_type=MediaType.HTML)
async def front() -> str:
    """What a browser finds at the printed URL."""
    return FRONT


@get("/openapi.json", opt={PUBLIC: True}, include_in_schema=False)
async def describe(request: Request[None, None, State]) -> dict[str, Any]:
    """The description of this API."""
    return request.app.openapi_schema.to_schema()


@get("/healthz", opt={PUBLIC: True})
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@get("/readyz", opt={PUBLIC: True})
async def readyz(server: NamedDependency[Server]) -> Response[Health]:
    """The server can do its work: 200, else 503 with the reason."""
    problem = server.ready()
    body = Health(status="unready" if problem else "ready", problem=problem)
    return Response(body, status_code=503 if problem else 200)


router = Router(path="/v1", route_handlers=[list_nodes, enrol])
probes = Router(path="/", route_handlers=[front, describe, healthz, readyz])
