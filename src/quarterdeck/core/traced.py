"""What people see of a trace: a run of one task and one attempt, which follow from its record."""

from __future__ import annotations

from collections.abc import Mapping

from quarterdeck.core.ids import attempt_id, task_id
from quarterdeck.core.model import Attempt, Counts, Order, Reason, Run, Snapshot, StreamEnd, Task
from quarterdeck.core.states import AttemptState, Outcome, Phase, RunState, TaskState
from quarterdeck.core.trace import LOST, NODE, ORIGIN, End, Trace
from quarterdeck.errors import Conflict


def check_no_trace(run: Run) -> None:
    """Raises Conflict for the run of a trace: nobody here can act on its command."""
    if run.origin == ORIGIN:
        raise Conflict(
            "trace",
            f"Run {run.id} is a trace: its command was started with `tt` on its own machine, so "
            "stop, signal or repeat it there.",
        )


def outcome(trace: Trace) -> Outcome | None:
    """How people are told that it ended; None while it goes on."""
    if not trace.over_now:
        return None
    if trace.lost or trace.end is None:
        return Outcome.LOST
    failed = trace.end.code not in (0, None) or trace.end.signal is not None
    return Outcome.FAILED if failed else Outcome.SUCCEEDED


def exit_code(trace: Trace) -> int | None:
    """The child's, 128 and the number of the signal that ended it, or None when nobody knows."""
    if trace.end is None:
        return None
    if trace.end.code is None and trace.end.signal is not None:
        return 128 + trace.end.signal
    return trace.end.code


def title(trace: Trace) -> str:
    """What a list shows of it. The command `-` is whatever writes into the pipe."""
    if trace.start.command == ("-",):
        return trace.start.title or "a pipe"
    return trace.start.title or " ".join(" ".join(trace.start.command).split())[:200] or trace.name


def run_of(trace: Trace) -> Run:
    """The run that people see."""
    came_out = outcome(trace)
    counts = {"running" if came_out is None else came_out.value: 1}
    return Run(
        id=trace.id,
        target="",
        order=Order(argv=trace.start.command, max_output=0),
        created_at=trace.created_at,
        created_by=trace.by,
        origin=ORIGIN,
        namespace=trace.namespace,
        title=title(trace),
        labels={"trace": trace.name},
        state=RunState.RUNNING if came_out is None else RunState.ENDED,
        outcome=came_out,
        started_at=trace.started_at,
        ended_at=trace.ended_at if came_out else None,
        counts=Counts(total=1, **counts),
        version=trace.told,
    )


def task_of(trace: Trace) -> Task:
    """The only task of its run."""
    came_out = outcome(trace)
    return Task(
        id=task_id(trace.id, 0),
        run=trace.id,
        position=0,
        node=NODE,
        node_name=trace.sender,
        state=TaskState.RUNNING if came_out is None else TaskState.ENDED,
        outcome=came_out,
        exit_code=exit_code(trace) if came_out else None,
        tries=1,
        changed=trace.told,
    )


def attempt_of(trace: Trace, hashes: Mapping[str, str] | None = None) -> Attempt:
    """The only attempt of its task. It counts as offered, released and (once it has ended) as
    archived: nobody dispatches, places, seals or purges it as one of a node."""
    came_out = outcome(trace)
    end = trace.end or End()
    gone = trace.lost and came_out is not None
    snapshot = Snapshot(
        attempt=attempt_of_trace(trace.id),
        revision=trace.told,
        phase=Phase.RUNNING if came_out is None else Phase.ENDED,
        accepted_at=trace.created_at,
        started_at=trace.started_at,
        ended_at=trace.ended_at if came_out else None,
        reason=Reason.LOST if gone else None,
        exit_code=exit_code(trace) if came_out else None,
        signal=end.signal if came_out else None,
        error=LOST if gone else end.message or None,
        stdout=_stream_end(trace, "stdout", hashes),
        stderr=_stream_end(trace, "stderr", hashes),
    )
    return Attempt(
        id=snapshot.attempt,
        run=trace.id,
        task=task_id(trace.id, 0),
        node=NODE,
        node_name=trace.sender,
        number=1,
        offered=True,
        state=AttemptState.RUNNING if came_out is None else AttemptState.ENDED,
        outcome=came_out,
        snapshot=snapshot,
        sealed=came_out is not None,
        released=True,
        version=trace.told,
    )


def attempt_of_trace(trace_id: str) -> str:
    """The id of the only attempt."""
    return attempt_id(task_id(trace_id, 0), 1)


def _stream_end(trace: Trace, stream: str, hashes: Mapping[str, str] | None) -> StreamEnd:
    dropped = sum(one.count for one in trace.dropped if one.stream == stream)
    return StreamEnd(
        bytes=trace.bytes.of(stream),
        sha256=(hashes or {}).get(stream, ""),
        dropped=dropped + trace.over.of(stream),
    )
