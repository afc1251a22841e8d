"""The results of a run folded: from the hashes that are recorded, without reading any output."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from quarterdeck.control.output import Output
from quarterdeck.control.run import Runs
from quarterdeck.core.fold import Group, Result, StreamSum, difference, grouped, lines_of
from quarterdeck.core.model import STREAMS, Attempt, Run, StreamEnd, Task
from quarterdeck.core.states import TaskState
from quarterdeck.errors import NotFound

DIFF_BYTES = 256 << 10


class Folded(msgspec.Struct, frozen=True):
    """A run, the groups of its tasks that have ended, and the tasks that have not."""

    run: Run
    groups: list[Group]
    open: list[Task]


class Differences(msgspec.Struct, frozen=True):
    """Two groups and the lines in which their samples differ, by stream; `cut` when more was
    written than is compared."""

    first: Group
    second: Group
    streams: dict[str, list[str]]
    cut: bool


async def folded(runs: Runs, run_id: str, *, by_stdout: bool) -> Folded:
    """Raises NotFound."""
    run, tasks, attempts = await runs.detail(run_id)
    newest = _newest(attempts)
    done = [_result(task, newest.get(task.id)) for task in tasks if task.state is TaskState.ENDED]
    open_tasks = [task for task in tasks if task.state is not TaskState.ENDED]
    return Folded(run, grouped(done, by_stdout=by_stdout), open_tasks)


async def compared(
    runs: Runs, output: Output, run_id: str, first: str, second: str, *, by_stdout: bool
) -> Differences:
    """What differs between two groups. Raises NotFound, and Unavailable while output is away."""
    run, _, attempts = await runs.detail(run_id)
    found = await folded(runs, run.id, by_stdout=by_stdout)
    newest = _newest(attempts)
    pair = (_group(found, first), _group(found, second))
    streams, cut = {}, False
    for stream in STREAMS[:1] if by_stdout else STREAMS:
        sides = []
        for group in pair:
            attempt = newest.get(group.sample.task)
            size = getattr(group.sample, stream).bytes
            data = b"" if attempt is None else await output.read(attempt, stream, 0, DIFF_BYTES)
            cut = cut or size > len(data)
            sides.append(lines_of(data))
        streams[stream] = await asyncio.to_thread(difference, *sides)
    return Differences(*pair, streams, cut)


def _newest(attempts: Iterable[Attempt]) -> dict[str, Attempt]:
    found: dict[str, Attempt] = {}
    for attempt in attempts:
        if attempt.task not in found or attempt.number > found[attempt.task].number:
            found[attempt.task] = attempt
    return found


def _group(found: Folded, id: str) -> Group:
    for group in found.groups:
        if group.id == id:
            return group
    raise NotFound(
        "group_not_found", f"Run {found.run.id} has no group {id[:40]!r}: look at its fold again."
    )


def _result(task: Task, attempt: Attempt | None) -> Result:
    seen = attempt.snapshot if attempt else None
    return Result(
        task=task.id,
        node=task.node_name,
        node_id=task.node,
        outcome=task.outcome.value if task.outcome else "",
        exit_code=task.exit_code,
        signal=seen.signal if seen else None,
        stdout=_sum(seen.stdout if seen else StreamEnd()),
        stderr=_sum(seen.stderr if seen else StreamEnd()),
    )


def _sum(end: StreamEnd) -> StreamSum:
    return StreamSum(bytes=end.bytes, sha256=end.sha256 if end.bytes else "")
