"""Routes that say how the server is: probes, metrics, and what everything does now."""

from __future__ import annotations

import platform
from datetime import datetime

from litestar import MediaType, Response, Router, get
from litestar.di import NamedDependency
from msgspec import structs

from quarterdeck.api.auth import FLEET, METRICS, PUBLIC
from quarterdeck.api.body import Body
from quarterdeck.api.describe import ALSO
from quarterdeck.control.main import Server
from quarterdeck.control.metrics import CONTENT_TYPE
from quarterdeck.control.status import Report
from quarterdeck.core import liveness
from quarterdeck.core.model import Node

SENTENCE = 500
LEASES_SHOWN = 100


class Health(Body, frozen=True, kw_only=True):
    """`status` is ok, ready, starting or unready; `problem` says why it is not ready."""

    status: str
    problem: str = ""


class TaskStatus(Body, frozen=True, kw_only=True):
    """A loop or task, and the line of ours it has come to."""

    name: str
    at: str


class TroubleStatus(Body, frozen=True, kw_only=True):
    """How a loop or task failed last, and how often."""

    name: str
    error: str
    at: datetime
    times: int


class StreamStatus(Body, frozen=True, kw_only=True):
    """What a JetStream stream holds."""

    name: str
    messages: int
    bytes: int
    max_bytes: int


class FabricStatus(Body, frozen=True, kw_only=True):
    """`problem` is empty while the fabric answers."""

    problem: str
    streams: tuple[StreamStatus, ...]


class DatabaseStatus(Body, frozen=True, kw_only=True):
    """`kind` is sqlite or postgresql; `problem` is empty while it works."""

    kind: str
    problem: str
    waiting_writes: int


class BacklogStatus(Body, frozen=True, kw_only=True):
    """Work that is open in the record; the oldest by the start of its run."""

    open_attempts: dict[str, int]
    unsealed: int
    oldest_unsealed: datetime | None
    due_runs: int
    oldest_due: datetime | None
    rejected: int


class LeaseStatus(Body, frozen=True, kw_only=True):
    """Who holds a duty, under which term; `mine` when it is this server."""

    duty: str
    holder: str
    term: int
    mine: bool


class UnwellNode(Body, frozen=True, kw_only=True):
    """A node somebody should look at."""

    id: str
    node: str
    state: str
    last_seen: datetime | None
    problem: str


class ClockStatus(Body, frozen=True, kw_only=True):
    """A node whose clock is ahead (or behind, below 0) of the server's."""

    node: str
    offset_s: float


class NodesStatus(Body, frozen=True, kw_only=True):
    """Counts by state, and at most 50 each that are not well or whose clock is off."""

    by_state: dict[str, int]
    unwell: tuple[UnwellNode, ...]
    clocks: tuple[ClockStatus, ...]


class LiveStatus(Body, frozen=True, kw_only=True):
    """Live streams that are open, and the bytes that wait for slow ones."""

    streams: int
    waiting_bytes: int


class IngestStatus(Body, frozen=True, kw_only=True):
    """Senders of another tool: where they are heard, connections and traces (`senders`) that are
    open, what was counted since the start, and the last `problem`."""

    protocol: str
    listen: str
    connections: int
    senders: int
    messages: int
    bad: int
    limited: int
    dropped: int
    problem: str


class Status(Body, frozen=True, kw_only=True):
    """What the server does now. `problem` is what `/readyz` says."""

    id: str
    version: str
    python: str
    now: datetime
    up_s: float
    problem: str
    disk: str
    tasks: tuple[TaskStatus, ...]
    tasks_total: int
    troubles: tuple[TroubleStatus, ...]
    fabric: FabricStatus
    database: DatabaseStatus
    backlog: BacklogStatus | None
    leases: tuple[LeaseStatus, ...]
    nodes: NodesStatus
    live: LiveStatus
    ingest: tuple[IngestStatus, ...]


@get("/healthz", opt={PUBLIC: True})
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@get("/readyz", opt={PUBLIC: True, ALSO: (503,)})
async def readyz(server: NamedDependency[Server]) -> Response[Health]:
    """The server can do its work: 200, else 503 with the reason."""
    problem = server.ready()
    word = "starting" if server.progress.missing() else "unready"
    body = Health(status=word if problem else "ready", problem=problem)
    return Response(body, status_code=503 if problem else 200)


@get("/metrics", opt={METRICS: True}, media_type=MediaType.TEXT)
async def metrics(server: NamedDependency[Server]) -> Response[bytes]:
    """Metrics of this server for Prometheus (text exposition)."""
    text = server.metrics.exposition(await server.survey.report())
    return Response(text, media_type=CONTENT_TYPE)


@get("/debug/status", opt={FLEET: True})
async def status(server: NamedDependency[Server]) -> Status:
    """What every loop does now, how it failed last, backlogs, fabric, database, nodes."""
    report = await server.survey.report()
    return Status(
        id=server.parts.id,
        version=server.version,
        python=platform.python_version(),
        now=report.at,
        up_s=round(report.up_s, 3),
        problem=server.ready(),
        disk=server.room(),
        tasks=tuple(TaskStatus(name=name, at=at) for name, at in report.tasks),
        tasks_total=report.tasks_total,
        troubles=tuple(
            TroubleStatus(name=t.name, error=t.error[:SENTENCE], at=t.at, times=t.times)
            for t in report.troubles
        ),
        fabric=FabricStatus(
            problem=report.fabric_problem,
            streams=tuple(
                StreamStatus(
                    name=f.stream, messages=f.messages, bytes=f.bytes, max_bytes=f.max_bytes
                )
                for f in report.fills
            ),
        ),
        database=DatabaseStatus(
            kind="postgresql" if server.settings.database else "sqlite",
            problem=report.database_problem,
            waiting_writes=report.database_waiting,
        ),
        backlog=_backlog(report),
        leases=tuple(
            LeaseStatus(duty=v.duty, holder=v.holder, term=v.term, mine=v.mine)
            for v in server.leases.view()[:LEASES_SHOWN]
        ),
        nodes=NodesStatus(
            by_state=report.nodes,
            unwell=tuple(_unwell(node, report.at) for node in report.unwell),
            clocks=tuple(ClockStatus(node=n, offset_s=round(s, 3)) for n, s in report.clocks),
        ),
        live=LiveStatus(streams=report.streams_open, waiting_bytes=report.streams_bytes),
        ingest=tuple(IngestStatus(**structs.asdict(view)) for view in report.foreign),
    )


def _backlog(report: Report) -> BacklogStatus | None:
    work = report.backlog
    if work is None:
        return None
    return BacklogStatus(
        open_attempts=work.open_attempts,
        unsealed=work.unsealed,
        oldest_unsealed=work.oldest_unsealed,
        due_runs=work.due_runs,
        oldest_due=work.oldest_due,
        rejected=work.rejected,
    )


def _unwell(node: Node, now: datetime) -> UnwellNode:
    return UnwellNode(
        id=node.id,
        node=node.name,
        state=liveness.state(node, now).value,
        last_seen=node.last_seen,
        problem=node.full,
    )


router = Router(path="/", route_handlers=[healthz, readyz, metrics, status])
