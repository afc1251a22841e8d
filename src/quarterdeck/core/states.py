"""The states of attempts, tasks, runs and nodes, and the moves that are allowed between them.

The tables here are the only list of moves: machines, guarded updates in the store, the diagrams
in the docs and a test all read them. An end is final: no table has a move out of ENDED.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class AttemptState(StrEnum):
    """Where one try stands, as shown to people."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Phase(StrEnum):
    """How far an attempt has come on its node."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class RefusalCode(StrEnum):
    """Why a node never starts an attempt: it was called off, the order can't be done, the disk has
    no room for it; `refused` is what an older agent said of each, and what a newer one may say."""

    REVOKED = "revoked"
    INVALID = "invalid"
    DISK = "disk"
    REFUSED = "refused"

    @classmethod
    def _missing_(cls, _value: object) -> RefusalCode:
        return cls.REFUSED


class TaskState(StrEnum):
    """Where a run's part on one node stands: `pending` has no attempt yet, the attempt of `queued`
    has not been taken by its node, the next attempt of `retrying` waits for its time."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    ENDED = "ended"


class RunState(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class NodeState(StrEnum):
    """What is known of a node from its heartbeats."""

    READY = "ready"
    SILENT = "silent"
    GONE = "gone"
    QUARANTINED = "quarantined"
    WAITING = "waiting"


class Outcome(StrEnum):
    """How something ended. Only tasks are `skipped`: they never began."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    KILL_FAILED = "kill_failed"
    START_TIMEOUT = "start_timeout"
    SKIPPED = "skipped"


ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.PENDING: frozenset(
        {
            AttemptState.STARTING,
            AttemptState.RUNNING,
            AttemptState.STOPPING,
            AttemptState.ENDED,
        }
    ),
    AttemptState.STARTING: frozenset(
        {AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.ENDED}
    ),
    AttemptState.RUNNING: frozenset({AttemptState.STOPPING, AttemptState.ENDED}),
    AttemptState.STOPPING: frozenset({AttemptState.ENDED}),
    AttemptState.ENDED: frozenset(),
}

TASK_MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.QUEUED, TaskState.ENDED}),
    TaskState.QUEUED: frozenset({TaskState.RUNNING, TaskState.RETRYING, TaskState.ENDED}),
    TaskState.RUNNING: frozenset({TaskState.RETRYING, TaskState.ENDED}),
    TaskState.RETRYING: frozenset({TaskState.RUNNING, TaskState.ENDED}),
    TaskState.ENDED: frozenset(),
}

RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.STOPPING, RunState.ENDED}),
    RunState.RUNNING: frozenset({RunState.STOPPING, RunState.ENDED}),
    RunState.STOPPING: frozenset({RunState.ENDED}),
    RunState.ENDED: frozenset(),
}
