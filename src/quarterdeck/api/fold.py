"""Routes of folded results: which tasks of a run came out the same, and how the others differ."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from quarterdeck.api.auth import KINDS, NEEDS, WATCHERS
from quarterdeck.api.body import Body
from quarterdeck.control.fold import compared, folded
from quarterdeck.control.main import Server
from quarterdeck.control.ready import Stage
from quarterdeck.core.fold import NOT_PLACED, Group, StreamSum, abbreviated

By = Literal["result", "stdout"]


class SumBody(Body, frozen=True, kw_only=True):
    bytes: int
    sha256: str


class GroupBody(Body, frozen=True, kw_only=True):
    """Tasks with the same outcome, exit code, signal and output. `nodes` is their names in short,
    `sample` the task whose output stands for all, `sample_output` where it can be read; empty when
    that task never got a node."""

    id: str
    count: int
    nodes: str
    outcome: str
    exit_code: int | None
    signal: int | None
    stdout: SumBody
    stderr: SumBody
    sample: str
    sample_node: str
    sample_output: str
    tasks: tuple[str, ...]


class FoldBody(Body, frozen=True, kw_only=True):
    """The groups of the tasks that have ended, the largest first; `open` tasks have not ended."""

    id: str
    state: str
    outcome: str | None
    total: int
    open: int
    open_nodes: str
    groups: tuple[GroupBody, ...]


class DiffBody(Body, frozen=True, kw_only=True):
    """Lines of a unified diff without its head, by stream; what is not printable is spelled out.
    `cut`: more was written than is compared."""

    first: str
    second: str
    stdout: tuple[str, ...]
    stderr: tuple[str, ...]
    cut: bool


@get("/runs/{run_id:str}/fold", opt={KINDS: WATCHERS})
async def fold_run(
    run_id: FromPath[str], server: NamedDependency[Server], by: FromQuery[By] = "result"
) -> FoldBody:
    """The results of a run in groups of the same. `?by=stdout` leaves stderr out of account."""
    found = await folded(server.runs, run_id, by_stdout=by == "stdout")
    return FoldBody(
        id=found.run.id,
        state=found.run.state.value,
        outcome=found.run.outcome.value if found.run.outcome else None,
        total=found.run.counts.total,
        open=len(found.open),
        open_nodes=abbreviated(task.node_name or NOT_PLACED for task in found.open),
        groups=tuple(_group_body(found.run.id, group) for group in found.groups),
    )


@get("/runs/{run_id:str}/fold/diff", opt={NEEDS: Stage.WHOLE, KINDS: WATCHERS})
async def diff_groups(
    run_id: FromPath[str],
    server: NamedDependency[Server],
    first: Annotated[str, QueryParameter(max_length=40)],
    second: Annotated[str, QueryParameter(max_length=40)],
    by: FromQuery[By] = "result",
) -> DiffBody:
    """What differs between the samples of two groups: bounded in bytes read and lines told."""
    found = await compared(
        server.runs, server.output, run_id, first, second, by_stdout=by == "stdout"
    )
    return DiffBody(
        first=found.first.id,
        second=found.second.id,
        stdout=tuple(found.streams["stdout"]),
        stderr=tuple(found.streams.get("stderr", ())),
        cut=found.cut,
    )


def _group_body(run: str, group: Group) -> GroupBody:
    sample = group.sample
    path = f"/v1/runs/{run}/output?node={sample.node_id}"
    return GroupBody(
        id=group.id,
        count=group.count,
        nodes=group.nodes,
        outcome=sample.outcome,
        exit_code=sample.exit_code,
        signal=sample.signal,
        stdout=_sum_body(sample.stdout),
        stderr=_sum_body(sample.stderr),
        sample=sample.task,
        sample_node=sample.node,
        sample_output=path if sample.node_id else "",
        tasks=tuple(result.task for result in group.results),
    )


def _sum_body(found: StreamSum) -> SumBody:
    return SumBody(bytes=found.bytes, sha256=found.sha256)


router = Router(path="/v1", route_handlers=[fold_run, diff_groups])
