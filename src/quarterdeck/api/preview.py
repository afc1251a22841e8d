"""The route that says who a run would hit, and who of them would wait; nothing is started."""

from __future__ import annotations

from litestar import Router, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from quarterdeck.api.body import Body
from quarterdeck.api.node import NoteBody, note_bodies
from quarterdeck.api.plan import labels_of, plan_of
from quarterdeck.api.schema import RunRequest, order_of
from quarterdeck.control.main import Server
from quarterdeck.control.run import check_pick
from quarterdeck.core import liveness
from quarterdeck.core.label import effective
from quarterdeck.core.target import notes, resolved
from quarterdeck.core.wait import obstacle


class PreviewNode(Body, frozen=True, kw_only=True):
    """A node that would be hit; `waits` says why its task would not start at once. With a pick it
    is `chosen` or not, `why` says on which grounds; without one it is null."""

    id: str
    node: str
    state: str
    draining: bool
    labels: dict[str, str]
    waits: str
    chosen: bool | None
    why: str


class Preview(Body, frozen=True, kw_only=True):
    """Who an order would be for now; `notes` say which parts of the target hit no node.

    `tasks` are all tasks, `first` those that start at once by the limits; the others follow.
    `chosen` are the nodes that a pick finds now, null without one; its other tasks wait for a node.
    """

    target: str
    total: int
    tasks: int
    first: int
    chosen: int | None
    nodes: tuple[PreviewNode, ...]
    notes: tuple[NoteBody, ...]


@post("/runs/preview", status_code=200)
async def preview_run(data: JSONBody[RunRequest], server: NamedDependency[Server]) -> Preview:
    """Check an order as a start would, and say who it would hit; nothing is started or recorded."""
    order_of(data)
    labels_of(data)
    plan = plan_of(data)
    now, every = server.clock.now(), server.fleet.every()
    hits = resolved(data.target, every, now)
    check_pick(plan.pick, data.target, hits.nodes)
    seen = await server.placer.foresee(plan, list(hits.nodes))
    found = seen.placement
    chosen = None if found is None else {one.node for one in found.chosen}
    why = (
        {} if found is None else {one.node: one.reason for one in (*found.chosen, *found.left_out)}
    )
    return Preview(
        target=data.target,
        total=len(hits.nodes),
        tasks=len(hits.nodes) if plan.pick is None else plan.pick.count,
        first=seen.first,
        chosen=None if chosen is None else len(chosen),
        nodes=tuple(
            PreviewNode(
                id=node.id,
                node=node.name,
                state=liveness.state(node, now).value,
                draining=node.draining,
                labels=dict(effective(node)),
                waits=obstacle(node, now, offline_ttl_s=data.offline_ttl_s)
                or seen.full.get(node.id, ""),
                chosen=None if chosen is None else node.id in chosen,
                why=why.get(node.id, ""),
            )
            for node in hits.nodes
        ),
        notes=note_bodies(notes(hits.tree, every, now)),
    )


router = Router(path="/v1", route_handlers=[preview_run])
