"""Routes that act on a run: signal its tasks, try it again, make another one from it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import msgspec
from litestar import Request as HttpRequest
from litestar import Router, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody
from msgspec import UNSET, Meta, UnsetType

from quarterdeck.api.body import Body, Request
from quarterdeck.api.plan import RetryRequest, plan_body
from quarterdeck.api.run import new_run
from quarterdeck.api.schema import PtyRequest, RunBody, RunRequest, order_of, run_body
from quarterdeck.control.again import Retry, left_out, retry
from quarterdeck.control.main import Server
from quarterdeck.control.requests import WantedSignal
from quarterdeck.core.model import Order, Plan, Run
from quarterdeck.core.target import resolved
from quarterdeck.errors import Invalid
from quarterdeck.store.access import Principal

Api = HttpRequest[None, Principal, State]
Key = Annotated[str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=128)]
COMMANDS = ("argv", "script", "script_b64")


class SignalRequest(Request, frozen=True, kw_only=True):
    """A signal by number; without `node` and `target` every running task of the run gets it."""

    signal: Annotated[int, Meta(ge=1, le=64)]
    tree: bool = False
    node: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    target: Annotated[str, Meta(min_length=1, max_length=64_000)] | None = None


class SignalAnswer(Body, frozen=True, kw_only=True):
    """The display names of the nodes whose tasks get the signal."""

    id: str
    signal: int
    nodes: tuple[str, ...]


class AgainBody(RunBody, frozen=True, kw_only=True):
    """The new run; `left_out` are the nodes that it does not go to since they were removed."""

    left_out: tuple[str, ...]


class AgainRequest(Request, frozen=True, kw_only=True):
    """`all` also takes the tasks that succeeded."""

    all: bool = False


class ClonePreview(Body, frozen=True, kw_only=True):
    """What a clone would be: the whole request, and the nodes that its target hits now."""

    request: RunRequest
    nodes: tuple[str, ...]


if TYPE_CHECKING:

    class CloneRequest(Request, frozen=True, kw_only=True):
        """What is to differ: any field of a run's request; what is left out stays as it was."""

else:
    CloneRequest = msgspec.defstruct(
        "CloneRequest",
        [
            (name, kind | UnsetType, UNSET)
            for name, kind in get_type_hints(RunRequest, include_extras=True).items()
        ],
        bases=(Request,),
        namespace={"__doc__": "What is to differ; what is left out stays as it was."},
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


@post("/runs/{run_id:str}/signal", status_code=202)
async def signal_run(
    run_id: FromPath[str],
    data: JSONBody[SignalRequest],
    request: Api,
    server: NamedDependency[Server],
    idempotency_key: Key = None,
) -> SignalAnswer:
    """Send a signal to what runs: to the main process, with `tree` to every process below it.

    An `Idempotency-Key` makes a repeat harmless: the signal is sent once.
    """
    wanted = WantedSignal(
        signal=data.signal,
        tree=data.tree,
        node=data.node,
        target=data.target,
        key=idempotency_key or server.new_id(),
    )
    run, tasks = await server.requests.signal(run_id, wanted)
    names = tuple(task.node_name for task in tasks)
    return SignalAnswer(id=run.id, signal=data.signal, nodes=names)


@post("/runs/{run_id:str}/retry")
async def retry_run(
    run_id: FromPath[str],
    data: JSONBody[AgainRequest],
    request: Api,
    server: NamedDependency[Server],
    idempotency_key: Key = None,
) -> AgainBody:
    """Start the same order again on the nodes where it did not succeed."""
    wish = Retry(
        created_by=request.auth.id,
        key=f"{request.auth.id}:{idempotency_key}" if idempotency_key else None,
        everything=data.all,
    )
    body = run_body(await retry(server.runs, run_id, wish))
    missing = await left_out(server.runs, run_id, wish)
    return AgainBody(**msgspec.structs.asdict(body), left_out=missing)


@post("/runs/{run_id:str}/clone")
async def clone_run(
    run_id: FromPath[str],
    data: JSONBody[CloneRequest],
    request: Api,
    server: NamedDependency[Server],
    idempotency_key: Key = None,
) -> RunBody:
    """Start a run like this one, with changes; its target is resolved anew."""
    run, whole = await _changed(server, run_id, data)
    wish = new_run(whole, request.auth.at(run.namespace), idempotency_key)
    wish = msgspec.structs.replace(wish, origin="clone", parent=run.id)
    return run_body(await server.runs.create(wish))


@post("/runs/{run_id:str}/clone/preview", status_code=200)
async def preview_clone(
    run_id: FromPath[str], data: JSONBody[CloneRequest], server: NamedDependency[Server]
) -> ClonePreview:
    """What such a clone would be; nothing is started."""
    _, whole = await _changed(server, run_id, data)
    order_of(whole)
    hits = resolved(whole.target, server.fleet.every(), server.clock.now())
    return ClonePreview(request=whole, nodes=tuple(node.name for node in hits.nodes))


async def _changed(server: Server, run_id: str, changes: CloneRequest) -> tuple[Run, RunRequest]:
    run, order = await server.runs.order(run_id)
    given: dict[str, Any] = msgspec.to_builtins(changes)
    base: dict[str, Any] = msgspec.to_builtins(request_of(run, order))
    if any(given.get(name) for name in COMMANDS):
        for name in (*COMMANDS, "args", "title"):  # they belong to the command that is replaced
            base.pop(name, None)
    try:
        return run, msgspec.convert(base | given, RunRequest)
    except msgspec.ValidationError as error:
        raise Invalid("invalid_request", f"These changes do not fit: {error}.") from error


def request_of(run: Run, order: Order) -> RunRequest:
    """The request that makes a run like this one."""
    return RunRequest(
        target=run.target,
        title=run.title,
        argv=order.argv,
        script_b64=base64.b64encode(order.script).decode() if order.script else None,
        args=order.args,
        env=dict(order.env),
        cwd=order.cwd,
        stdin_b64=base64.b64encode(order.stdin).decode(),
        timeout_s=order.timeout_s,
        grace_s=order.grace_s,
        max_output=order.max_output,
        leftovers="kill" if order.leftovers == "kill" else "keep",
        lost_after_s=order.lost_after_s,
        on_timeout="alert" if order.on_timeout == "alert" else "stop",
        labels=dict(run.labels),
        **plan_fields(run.plan),
        user=order.user,
        pty=None if order.pty is None else PtyRequest(**msgspec.structs.asdict(order.pty)),
        umask=None if order.umask is None else f"{order.umask:03o}",
        start_timeout_s=order.start_timeout_s,
    )


def plan_fields(plan: Plan) -> dict[str, Any]:
    """The plan of a run as the fields of a request."""
    fields = msgspec.structs.asdict(plan_body(plan))
    return {**fields, "retry": RetryRequest(**msgspec.structs.asdict(fields["retry"]))}


router = Router(path="/v1", route_handlers=[signal_run, retry_run, clone_run, preview_clone])
