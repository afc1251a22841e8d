"""Routes of nodes: list, look, and what people decide about them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from litestar import Request as HttpRequest
from litestar import Router, delete, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from quarterdeck.api.auth import FLEET
from quarterdeck.api.body import Body, Request
from quarterdeck.control.main import Server
from quarterdeck.core import liveness
from quarterdeck.core.label import effective
from quarterdeck.core.model import Node
from quarterdeck.core.target import MAX_LENGTH, Note, notes, resolved
from quarterdeck.store.access import Principal

MOST_NODES = 100_000
MAX_AFTER = 400

Api = HttpRequest[None, Principal, State]
Key = Annotated[str, Meta(min_length=1, max_length=63)]
Value = Annotated[str, Meta(min_length=1, max_length=255)]


class NodeBody(Body, frozen=True, kw_only=True):
    """A node; times are the server's, figures are those of its last heartbeat.

    `node` is its display name, `own_name` what its agent says; `labels` are those that count, put
    together of `own_labels` (its settings) and `server_labels`. `clock_offset_s` is how far its
    clock was ahead at the last beat, the way of the beat included.
    """

    id: str
    node: str
    own_name: str
    state: str
    draining: bool
    approved: bool
    enrolled_at: datetime
    last_seen: datetime | None
    labels: dict[str, str]
    own_labels: dict[str, str]
    server_labels: dict[str, str]
    version: str
    clock_offset_s: float
    os: str
    kernel: str
    arch: str
    cpus: int
    addresses: tuple[str, ...]
    cpu_percent: float
    load1: float
    memory_total: int
    memory_used: int
    disk_total: int
    disk_free: int
    attempts: int
    unknown_attempts: tuple[str, ...]
    place: str
    via: str
    problem: str


class NoteBody(Body, frozen=True, kw_only=True):
    """A part of a target that hits no node: where it begins, and a sentence."""

    position: int
    text: str


class NodeList(Body, frozen=True, kw_only=True):
    """Nodes by name; `notes` say which parts of a target hit none. `next` is what to ask for
    `after` this page, and null on the last one."""

    items: tuple[NodeBody, ...]
    next: str | None = None
    notes: tuple[NoteBody, ...] = ()


class LabelRequest(Request, frozen=True, kw_only=True):
    """Labels to `put` and to `drop`, groups to `join` and to `leave`."""

    put: Annotated[dict[Key, Value], Meta(max_length=64)] = {}
    drop: Annotated[tuple[Key, ...], Meta(max_length=64)] = ()
    join: Annotated[tuple[Value, ...], Meta(max_length=64)] = ()
    leave: Annotated[tuple[Value, ...], Meta(max_length=64)] = ()


class RenameRequest(Request, frozen=True, kw_only=True):
    """An empty `name` gives the node its own back."""

    name: Annotated[str, Meta(max_length=255)]


@get("/nodes")
async def list_nodes(
    server: NamedDependency[Server],
    target: Annotated[str | None, QueryParameter(min_length=1, max_length=MAX_LENGTH)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MOST_NODES)] = MOST_NODES,
    after: Annotated[str | None, QueryParameter(min_length=1, max_length=MAX_AFTER)] = None,
) -> NodeList:
    """Every node of the fleet with its state and figures, by name; with `target` those it hits.

    `limit` gives a page of them, `after` the page that follows: the `next` of the one before.
    """
    now, every = server.clock.now(), server.fleet.every()
    found, told = tuple(every), list[Note]()
    if target is not None:
        hits = resolved(target, every, now)
        found, told = tuple(hits.nodes), notes(hits.tree, every, now)
    if after is not None:
        name, _, id = after.partition(" ")
        found = tuple(node for node in found if (node.name, node.id) > (name, id))
    page = found[:limit]
    more = len(page) < len(found)
    return NodeList(
        items=tuple(node_body(server, node) for node in page),
        next=f"{page[-1].name} {page[-1].id}" if more else None,
        notes=note_bodies(told),
    )


@get("/nodes/{node:str}")
async def show_node(node: FromPath[str], server: NamedDependency[Server]) -> NodeBody:
    """One node, by name, id, or the beginning of an id."""
    return node_body(server, server.nodes.named(node))


@post("/nodes/{node:str}/labels", status_code=200, opt={FLEET: True})
async def label_node(
    node: FromPath[str],
    data: JSONBody[LabelRequest],
    request: Api,
    server: NamedDependency[Server],
) -> NodeBody:
    """Change the server's labels of a node; those of its own settings stay."""
    changed = await server.nodes.label(
        node,
        put=data.put,
        drop=data.drop,
        join=data.join,
        leave=data.leave,
        by=request.auth.id,
    )
    return node_body(server, changed)


@post("/nodes/{node:str}/rename", status_code=200, opt={FLEET: True})
async def rename_node(
    node: FromPath[str],
    data: JSONBody[RenameRequest],
    request: Api,
    server: NamedDependency[Server],
) -> NodeBody:
    """Show a node under another name."""
    return node_body(server, await server.nodes.rename(node, data.name, by=request.auth.id))


@post("/nodes/{node:str}/drain", status_code=200, opt={FLEET: True})
async def drain_node(
    node: FromPath[str], request: Api, server: NamedDependency[Server]
) -> NodeBody:
    """Keep new work off a node; what runs there runs on."""
    return node_body(server, await server.nodes.drain(node, True, by=request.auth.id))


@post("/nodes/{node:str}/undrain", status_code=200, opt={FLEET: True})
async def undrain_node(
    node: FromPath[str], request: Api, server: NamedDependency[Server]
) -> NodeBody:
    """Give a node new work again."""
    return node_body(server, await server.nodes.drain(node, False, by=request.auth.id))


@post("/nodes/{node:str}/approve", status_code=200, opt={FLEET: True})
async def approve_node(
    node: FromPath[str], request: Api, server: NamedDependency[Server]
) -> NodeBody:
    """Let a node in that waits for approval; its agent goes on by itself."""
    return node_body(server, await server.nodes.approve(node, by=request.auth.id))


@delete("/nodes/{node:str}", status_code=200, opt={FLEET: True})
async def remove_node(
    node: FromPath[str], request: Api, server: NamedDependency[Server]
) -> NodeBody:
    """Remove a node for ever: its link is cut, its pass is void, what may run there is lost."""
    removed = await server.removals.remove(node, by=request.auth.id)
    server.agentless.look()
    return node_body(server, removed)


def node_body(server: Server, node: Node) -> NodeBody:
    return NodeBody(
        id=node.id,
        node=node.name,
        own_name=node.own_name or node.name,
        state=liveness.state(node, server.clock.now()).value,
        draining=node.draining,
        approved=node.approved,
        enrolled_at=node.created_at,
        last_seen=node.last_seen,
        labels=dict(effective(node)),
        own_labels=dict(node.labels),
        server_labels=dict(node.server_labels),
        version=node.facts.version,
        clock_offset_s=round(server.fleet.clock_offset(node.id), 3),
        os=node.facts.os,
        kernel=node.facts.kernel,
        arch=node.facts.arch,
        cpus=node.facts.cpus,
        addresses=node.facts.addresses,
        cpu_percent=node.load.cpu_percent,
        load1=node.load.load1,
        memory_total=node.load.memory_total,
        memory_used=node.load.memory_used,
        disk_total=node.load.disk_total,
        disk_free=node.load.disk_free,
        attempts=node.load.attempts,
        unknown_attempts=node.unknown,
        place=node.facts.place,
        via=node.facts.via,
        problem=server.agentless.problem(node) or node.full,
    )


def note_bodies(found: list[Note]) -> tuple[NoteBody, ...]:
    return tuple(NoteBody(position=note.position, text=note.text) for note in found)


router = Router(
    path="/v1",
    route_handlers=[
        list_nodes,
        show_node,
        label_node,
        rename_node,
        drain_node,
        undrain_node,
        approve_node,
        remove_node,
    ],
)
