"""Named events: what happens inside a process, said once, heard by logs, metrics and tests.

Code emits an event; it never formats a log line. Fields named `error` hold a sentence. Secrets are
never fields.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all events. `level` is the weight of its log line."""

    @property
    def level(self) -> str:
        return "info"


class Warned(Event, frozen=True, kw_only=True):
    """Base of events an operator should look at."""

    @property
    def level(self) -> str:
        return "warning"


class Detail(Event, frozen=True, kw_only=True):
    """Base of events that come often: for metrics; logged at level debug only."""

    @property
    def level(self) -> str:
        return "debug"


class Started(Event, frozen=True, kw_only=True):
    """A process is ready: `what` is server or agent."""

    what: str
    where: str = ""


class Stopped(Event, frozen=True, kw_only=True):
    what: str


class StopCutOff(Warned, frozen=True, kw_only=True):
    """A process ends without waiting for the end of its stop; `waits_for` names its loops."""

    what: str
    waits_for: list[str]


class AgentlessReached(Event, frozen=True, kw_only=True):
    """A host that has no agent is reached over SSH (agent/ssh)."""

    place: str


class AgentlessLost(Warned, frozen=True, kw_only=True):
    """It is not reached any more, or not yet."""

    place: str
    error: str


class LoopFailed(Warned, frozen=True, kw_only=True):
    """A loop ended with an error and is started again after `delay_s`."""

    loop: str
    error: str
    delay_s: float


class FabricConnected(Event, frozen=True, kw_only=True):
    who: str


class FabricTrouble(Warned, frozen=True, kw_only=True):
    who: str
    error: str


class DatabaseTrouble(Warned, frozen=True, kw_only=True):
    """A server can't start its work because the database is away; it tries again."""

    error: str


class ServerLost(Warned, frozen=True, kw_only=True):
    """An agent asked a server for its pass over HTTP and got none; it asks again later."""

    error: str


class ApprovalAwaited(Warned, frozen=True, kw_only=True):
    """A server knows the node of this agent, but nobody has approved it yet."""

    error: str


class NodeEnrolled(Event, frozen=True, kw_only=True):
    node: str
    name: str


class NodeSession(Event, frozen=True, kw_only=True):
    """A node announced a new start of its agent."""

    node: str
    name: str
    session: str


class NodeCloned(Warned, frozen=True, kw_only=True):
    """Two agents answer with the identity of one node."""

    node: str
    name: str


class NodeRemoved(Event, frozen=True, kw_only=True):
    """A node was removed from the fleet for ever."""

    node: str
    name: str
    by: str


class NodeDecided(Event, frozen=True, kw_only=True):
    """Somebody changed a node: `what` is labelled, renamed, drained, undrained or approved."""

    node: str
    name: str
    what: str
    by: str


class TokenMade(Event, frozen=True, kw_only=True):
    token: str
    kind: str
    by: str


class TokenRevoked(Event, frozen=True, kw_only=True):
    token: str
    by: str


class StraysPurged(Warned, frozen=True, kw_only=True):
    """The cache of output held chunks of so many attempts that nobody owns."""

    subjects: int


class LinkOpened(Detail, frozen=True, kw_only=True):
    """The API's listener carries one more link to the fabric."""


class LinkClosed(Detail, frozen=True, kw_only=True):
    """... and one less."""


class LinkTurnedAway(Detail, frozen=True, kw_only=True):
    """A link to the fabric was not carried; `reason` is the code of the answer."""

    reason: str


class LeaseTaken(Event, frozen=True, kw_only=True):
    """This server does a duty from now on."""

    duty: str
    server: str
    term: int


class LeaseLost(Event, frozen=True, kw_only=True):
    """Another server has taken the duty over, or it can't be kept."""

    duty: str
    server: str


class ClaimSilent(Warned, frozen=True, kw_only=True):
    """A claim to a lock was removed because its beats had stopped."""

    lock: str
    claim: str


class ClaimToldToLeave(Event, frozen=True, kw_only=True):
    """Somebody took a claim to a lock away from its holder."""

    lock: str
    claim: str
    host: str
    by: str


class OrderRejected(Warned, frozen=True, kw_only=True):
    """An agent threw an order away: not signed, not for it, not for this session."""

    node: str
    code: str
    error: str


class AttemptStarted(Event, frozen=True, kw_only=True):
    attempt: str
    pid: int


class AttemptAdopted(Event, frozen=True, kw_only=True):
    attempt: str


class AttemptEnded(Event, frozen=True, kw_only=True):
    attempt: str
    reason: str
    exit_code: int | None


class AttemptBroken(Warned, frozen=True, kw_only=True):
    """A directory of an attempt can't be read."""

    attempt: str
    error: str


class FactRejected(Warned, frozen=True, kw_only=True):
    """A message that ingest could not take; it lies in the table `rejected`."""

    subject: str
    error: str


class FactTooLarge(Warned, frozen=True, kw_only=True):
    """The stream takes no fact of this size: it is sent with less of its error, or dropped."""

    attempt: str
    bytes: int


class RunCreated(Event, frozen=True, kw_only=True):
    run: str
    tasks: int


class RunEnded(Event, frozen=True, kw_only=True):
    run: str
    outcome: str


class LogSealed(Event, frozen=True, kw_only=True):
    attempt: str
    bytes: int
    seconds: float = 0.0


class SealFailed(Warned, frozen=True, kw_only=True):
    """A log could not be archived; it is tried again after `retry_s`."""

    attempt: str
    error: str
    retry_s: float


class LogMismatch(Warned, frozen=True, kw_only=True):
    """A node's files are not what its final report says: the log can't be archived."""

    attempt: str


class LogReread(Warned, frozen=True, kw_only=True):
    """The cache held other bytes than the node's files: the whole stream is read from there."""

    attempt: str
    stream: str


class LogPulled(Event, frozen=True, kw_only=True):
    """Bytes that the cache lacked were read from the node's files."""

    attempt: str
    stream: str
    offset: int
    bytes: int


class RequestFailed(Warned, frozen=True, kw_only=True):
    """A request met an error that is ours."""

    method: str
    path: str
    error: str


class RequestAnswered(Detail, frozen=True, kw_only=True):
    """`route` is the template of the path, `seconds` until the last byte was handed over."""

    method: str
    route: str
    status: int
    seconds: float


class FactsTaken(Detail, frozen=True, kw_only=True):
    """A batch of facts was committed and is acknowledged."""

    facts: int
    seconds: float


class AttemptsMoved(Detail, frozen=True, kw_only=True):
    """Attempts reached these states (an ended one its outcome) in the record."""

    states: dict[str, int]


class OrdersSent(Detail, frozen=True, kw_only=True):
    """A batch of orders to one node, and whether it answered."""

    node: str
    orders: int
    answered: bool


class UnitDone(Detail, frozen=True, kw_only=True):
    """The database did a unit of work; `kind` is write or read."""

    kind: str
    seconds: float
    failed: bool


Subscriber = Callable[[Event], None]


class Telemetry:
    """Where events of one process go. Subscribers must be quick and must not raise."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber(event)

    def loop_failed(self, loop: str, error: str, delay_s: float) -> None:
        """What `service.Services` calls when a loop or task of it failed."""
        self.emit(LoopFailed(loop=loop, error=error, delay_s=delay_s))
