"""Routes of the fleet: enrolment, trust; and what a browser finds."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Router, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody

from quarterdeck.api.auth import NEEDS, PUBLIC
from quarterdeck.api.body import Body
from quarterdeck.api.describe import describe
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.errors import NotFound
from quarterdeck.wire.enrol import Credentials, Enrolment
from quarterdeck.wire.leaf import LeafCredentials, LeafEnrolment

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


HttpRequest = Request[None, None, State]


class CertificateBody(Body, frozen=True, kw_only=True):
    pem: str
    fingerprint: str


@get("/certificate", opt={PUBLIC: True})
async def certificate(server: NamedDependency[Server]) -> CertificateBody:
    """The certificate (PEM) to compare with the fingerprint of a token, and then to pin."""
    if not server.certificate:
        raise NotFound("no_certificate", "This server has no certificate that is to be pinned.")
    return CertificateBody(pem=server.certificate, fingerprint=server.fingerprint)


@post("/enrol", opt={PUBLIC: True, NEEDS: Stage.RECORD}, status_code=200)
async def enrol(
    data: JSONBody[Enrolment], request: HttpRequest, server: NamedDependency[Server]
) -> Credentials:
    """Admit a node with a join token and a key of its own, or renew its pass to the fabric."""
    return await server.enrolments.enrol(data, _address(request))


@post("/leaf", opt={PUBLIC: True, NEEDS: Stage.RECORD}, status_code=200)
async def leaf(
    data: JSONBody[LeafEnrolment], request: HttpRequest, server: NamedDependency[Server]
) -> LeafCredentials:
    """Let a nats-server be a leaf node of the fabric, with a leaf token, or renew its pass."""
    return await server.leaves.enrol(data, _address(request))


def _address(request: HttpRequest) -> str:
    """Who asks; a proxy that the setting `trusted_proxies` names says for whom."""
    return "" if request.client is None else request.client.host


@get("/", opt={PUBLIC: True}, include_in_schema=False, media_type=MediaType.HTML)
async def front() -> str:
    """What a browser finds at the printed URL."""
    return FRONT


@get("/openapi.json", opt={PUBLIC: True}, include_in_schema=False)
async def openapi(request: HttpRequest) -> dict[str, Any]:
    """The description of this API."""
    return describe(request.app)


router = Router(path="/v1", route_handlers=[certificate, enrol, leaf])
pages = Router(path="/", route_handlers=[front, openapi])
