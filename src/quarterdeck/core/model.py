"""The records that decisions are made on: orders, snapshots, attempts, tasks, runs, nodes.

All are frozen. Times are aware UTC datetimes; lengths are bytes; `_s` is seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from quarterdeck.core.states import (
    AttemptState,
    Outcome,
    Phase,
    RunState,
    TaskState,
)

STDOUT = "stdout"
STDERR = "stderr"
STREAMS = (STDOUT, STDERR)

MAX_ORDER_BYTES = 4 << 20
DEFAULT_GRACE_S = 10.0
DEFAULT_MAX_OUTPUT = 1 << 30
DEFAULT_OFFLINE_TTL_S = 60.0
DEFAULT_START_TIMEOUT_S = 60.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all core records."""


class Terminal(Record, frozen=True, kw_only=True):
    """The terminal that a command gets as its own; both streams come out of it as stdout."""

    rows: int = 24
    columns: int = 80
    term: str = "xterm-256color"


class Order(Record, frozen=True, kw_only=True):
    """What is to be executed on each target. Exactly one of `argv` and `script` is given.

    `on_timeout` is `stop`, or `alert`: then the attempt goes on, and is recorded to be overdue.
    """

    argv: tuple[str, ...] = ()
    script: bytes = b""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    cwd: str | None = None
    stdin: bytes = b""
    timeout_s: float = 0.0
    grace_s: float = DEFAULT_GRACE_S
    max_output: int = DEFAULT_MAX_OUTPUT
    leftovers: str = "keep"
    lost_after_s: float = 0.0
    user: str | None = None
    pty: Terminal | None = None
    umask: int | None = None
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S
    on_timeout: str = "stop"


class Amount(Record, frozen=True, kw_only=True):
    """A number of tasks, a percentage of all of a run, or both: then the smaller one counts."""

    count: int | None = None
    percent: float | None = None


class OnLimit(StrEnum):
    """What becomes of the tasks that run when too many have failed."""

    FINISH = "finish"
    STOP = "stop"


class Retry(Record, frozen=True, kw_only=True):
    """How often a task is tried, and when again (core/retry.py). `retry_on` and `never_on` are exit
    codes. `idempotent`: it does no harm when two tries overlap, so a lost one may be tried again.
    """

    attempts: int = 1
    delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 300.0
    retry_on: tuple[int, ...] = ()
    never_on: tuple[int, ...] = ()
    elsewhere: bool = False
    idempotent: bool = False


class PickBy(StrEnum):
    """What makes one candidate of a pick better than another: the lowest figure wins."""

    LEAST_LOAD = "least_load"
    LEAST_MEMORY = "least_memory"
    FEWEST_TASKS = "fewest_tasks"
    RANDOM = "random"
    LABEL = "label"


class Pick(Record, frozen=True, kw_only=True):
    """`count` nodes of those that the target matches (core/place.py). Limits are percent, 0: none.

    `label` names the label whose number is compared (only with `PickBy.LABEL`).
    """

    count: int
    by: PickBy = PickBy.LEAST_LOAD
    label: str = ""
    max_cpu: float = 0.0
    max_memory: float = 0.0


class Plan(Record, frozen=True, kw_only=True):
    """How the tasks of a run follow one another (core/plan.py). 0: no canary, no deadline. Of what
    waits for a slot of one node a higher priority goes first."""

    max_parallel: Amount | None = None
    max_failures: Amount | None = None
    on_limit: OnLimit = OnLimit.FINISH
    canary: int = 0
    deadline_s: float = 0.0
    offline_ttl_s: float = DEFAULT_OFFLINE_TTL_S
    retry: Retry = Retry()
    pick: Pick | None = None
    priority: int = 0


class Halt(StrEnum):
    """Why a run starts nothing any more."""

    LIMIT = "limit"
    CANARY = "canary"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"


class Wanted(StrEnum):
    """What the database wants of an attempt. `revoke`: not to start; what has begun goes on."""

    RUN = "run"
    REVOKE = "revoke"
    STOP = "stop"
    FORGET = "forget"


class Reason(StrEnum):
    """Why an attempt ended, when it did not simply exit."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"
    LOST_AFTER = "lost_after"
    START_ERROR = "start_error"
    START_TIMEOUT = "start_timeout"
    REFUSED = "refused"
    OFFLINE = "offline"
    FORGOTTEN = "forgotten"
    NODE_REMOVED = "node_removed"


class SignalOrder(Record, frozen=True, kw_only=True):
    """One signal to a running attempt. They are numbered from 1, and each is sent once.

    `key` names the request: a repeat of it adds none. `tree` sends it to every process below the
    shim, else the main process alone gets it.
    """

    number: int
    signal: int
    tree: bool = False
    key: str = ""
    at: datetime


class StreamEnd(Record, frozen=True, kw_only=True):
    """The final length and hash of one stream; `dropped` bytes were not kept (max_output)."""

    bytes: int = 0
    sha256: str = ""
    dropped: int = 0


class Snapshot(Record, frozen=True, kw_only=True):
    """Everything a node knows of one attempt. A higher revision replaces a lower one.

    `revision` is the number of facts in the attempt's directory (order, started, each stop and
    signal, overdue, alerted, end), so it grows with every change and survives a restart of the
    agent without a counter. `cached` says of an ended attempt that the fabric took all of its
    output. `signals` is how many signals the node has recorded, `signalled` how many of them were
    sent. `gone_at` is when processes that could not be killed ended after all. `overdue`: its
    timeout is over, and it was ordered to go on then.
    """

    attempt: str
    revision: int
    phase: Phase
    accepted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    stdout: StreamEnd = StreamEnd()
    stderr: StreamEnd = StreamEnd()
    survivors: int = 0
    kill_failed: bool = False
    cached: bool = False
    stops: int = 0
    signals: int = 0
    signalled: int = 0
    gone_at: datetime | None = None
    overdue: bool = False


class Attempt(Record, frozen=True, kw_only=True):
    """The server's row of one attempt: what is wanted, and what was last reported. Its node does
    not get it before `not_before`; without a node (a pick) it waits until it is placed."""

    id: str
    run: str
    task: str
    node: str
    node_name: str = ""
    number: int
    wanted: Wanted = Wanted.RUN
    stops: int = 0
    stop_signal: int = 15
    priority: int = 0
    signals: tuple[SignalOrder, ...] = ()
    offered: bool = False
    offer_until: datetime | None = None
    not_before: datetime | None = None
    state: AttemptState = AttemptState.PENDING
    outcome: Outcome | None = None
    snapshot: Snapshot | None = None
    log_gone: bool = False
    sealed: bool = False
    released: bool = False
    version: int = 1


class Task(Record, frozen=True, kw_only=True):
    """A run's part on one node. `node_state` is how the node was when the target was resolved,
    `tries` counts its attempts, `reason` says why it was skipped or called off, or why a pick chose
    its node; before that the node is empty."""

    id: str
    run: str
    position: int
    node: str
    node_name: str
    node_state: str = ""
    state: TaskState = TaskState.PENDING
    outcome: Outcome | None = None
    exit_code: int | None = None
    tries: int = 0
    reason: str = ""
    changed: int = 0


class Counts(Record, frozen=True, kw_only=True):
    """How many tasks of a run stand where."""

    total: int = 0
    pending: int = 0
    queued: int = 0
    running: int = 0
    retrying: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    lost: int = 0
    kill_failed: int = 0
    start_timeout: int = 0
    skipped: int = 0

    @property
    def active(self) -> int:
        """Begun and not ended: what `max_parallel` bounds."""
        return self.queued + self.running + self.retrying

    @property
    def ended(self) -> int:
        return self.total - self.pending - self.active


class Run(Record, frozen=True, kw_only=True):
    """An order carried out once over its resolved targets. With a `halt` nothing of it starts any
    more; `reason` is the sentence for it."""

    id: str
    target: str
    order: Order
    created_at: datetime
    created_by: str
    origin: str = "run"
    parent: str | None = None
    namespace: str = "default"
    title: str = ""
    labels: Mapping[str, str] = {}
    plan: Plan = Plan()
    deadline_at: datetime | None = None
    state: RunState = RunState.PENDING
    outcome: Outcome | None = None
    stop_asked: int = 0
    halt: Halt | None = None
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    counts: Counts = Counts()
    version: int = 1


class Load(Record, frozen=True, kw_only=True):
    """Figures of a node at one moment."""

    cpu_percent: float = 0.0
    load1: float = 0.0
    memory_total: int = 0
    memory_used: int = 0
    disk_total: int = 0
    disk_free: int = 0
    attempts: int = 0


class Facts(Record, frozen=True, kw_only=True):
    """What a node is: changes only with its machine or its settings. `place` (`user@host:port`) and
    `via`, a node, say how one without an agent of its own is reached."""

    os: str = ""
    kernel: str = ""
    arch: str = ""
    cpus: int = 0
    boot_id: str = ""
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    version: str = ""
    place: str = ""
    via: str = ""
    slots: int = 0


class Node(Record, frozen=True, kw_only=True):
    """One machine of the fleet, as the server knows it.

    What people decide about it: `given_name` (shown instead of `own_name`, what the agent says),
    `server_labels` (beside `labels`, those of the agent; core/label.py puts them together),
    `draining`, `approved`. `decision` counts those changes and guards them.
    """

    id: str
    name: str
    public_key: str
    created_at: datetime
    own_name: str = ""
    given_name: str = ""
    labels: Mapping[str, str] = {}
    server_labels: Mapping[str, str] = {}
    draining: bool = False
    approved: bool = True
    decision: int = 0
    session: str = ""
    last_seen: datetime | None = None
    quarantined: bool = False
    removed: bool = False
    facts: Facts = Facts()
    load: Load = Load()
    full: str = ""
    unknown: tuple[str, ...] = ()
