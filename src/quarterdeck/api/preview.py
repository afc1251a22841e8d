"""The route that says who a run would hit, and who of them would wait; nothing is started."""

from __future__ import annotations

from litestar import Router, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from quarterdeck.api.body import Body
from quarterdeck.api.node import NoteBody, note_bodies
from quarterdeck.api.schema import RunRequest, order_of
from quarterdeck.control.main import Server
from quarterdeck.core import liveness
from quarterdeck.core.label import effective
from quarterdeck.core.target import notes, resolved
from quarterdeck.core.wait import obstacle


class PreviewNode(Body, frozen=True, kw_only=True):
    """A node that would be hit; `waits` says why its task would not start at once."""

    id: str
    node: str
    state: str
    draining: bool
    labels: dict[str, str]
    waits: str


class Preview(Body, frozen=True, kw_only=True):
    """Who an order would be for now; `notes` say which parts of the target hit no node."""

    target: str
    total: int
    nodes: tuple[PreviewNode, ...]
    notes: tuple[NoteBody, ...]


@post("/runs/preview", status_code=200)
async def preview_run(data: JSONBody[RunRequest], server: NamedDependency[Server]) -> Preview:
    """Check an order as a start would, and say who it would hit; nothing is started or recorded."""
    order_of(data)
    now, every = server.clock.now(), server.fleet.every()
    hits = resolved(data.target, every, now)
    return Preview(
        target=data.target,
        total=len(hits.nodes),
        nodes=tuple(
            PreviewNode(
                id=node.id,
                node=node.name,
                state=liveness.state(node, now).value,
                draining=node.draining,
                labels=dict(effective(node)),
                waits=obstacle(node, now, offline_ttl_s=data.offline_ttl_s),
            )
            for node in hits.nodes
        ),
        notes=note_bodies(notes(hits.tree, every, now)),
    )


router = Router(path="/v1", route_handlers=[preview_run])
