"""Prometheus metrics: events are counted as they happen, gauges are read when somebody asks.

A label takes its values from the code (states, outcomes, names of loops, templates of routes),
never from the fleet: the number of series does not grow with nodes or runs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from quarterdeck.control.status import Report
from quarterdeck.telemetry import (
    AttemptsMoved,
    Event,
    FabricConnected,
    FabricTrouble,
    FactRejected,
    FactsTaken,
    LinkClosed,
    LinkOpened,
    LinkTurnedAway,
    LogMismatch,
    LogSealed,
    LoopFailed,
    NodeCloned,
    NodeEnrolled,
    NodeSession,
    OrdersSent,
    RequestAnswered,
    RequestFailed,
    RunCreated,
    RunEnded,
    SealFailed,
    UnitDone,
)
from quarterdeck.telemetry.trace import (
    TraceBack,
    TraceBegan,
    TraceEnded,
    TraceForgotten,
    TraceLost,
    TraceTaken,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The metrics of one server: subscribe `count` to its telemetry."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        self._report = _LastReport()
        self._registry.register(self._report)
        ProcessCollector(namespace="qd", registry=self._registry)
        info = self._gauge("build_info", "Always 1; the labels say what runs.", "version", "python")
        info.labels(version=version, python=platform.python_version()).set(1)
        self._handlers: dict[type[Event], Callable[[Any], None]] = {}
        self._count_work()
        self._count_parts()
        self._count_requests()
        self._count_links()
        self._count_traces()

    def count(self, event: Event) -> None:
        """What `Telemetry.subscribe` takes."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def exposition(self, report: Report) -> bytes:
        """All metrics as text, with the gauges of `report`."""
        self._report.report = report
        return generate_latest(self._registry)

    def _count_work(self) -> None:
        runs = self._counter("runs_created", "Runs created here.")
        tasks = self._counter("tasks_created", "Tasks of the runs created here.")
        ended = self._counter("runs_ended", "Runs that ended, by outcome.", "outcome")
        moved = self._counter("attempts", "Attempts that reached a state or outcome.", "state")
        facts = self._counter("facts", "Facts of nodes that were taken in.")
        batches = self._histogram("fact_batch_seconds", "From a batch to its commit.", SLOW)
        thrown = self._counter("facts_rejected", "Messages of nodes that could not be taken.")
        orders = self._counter(
            "orders", "Orders sent to nodes, by whether they answered.", "answer"
        )
        logs = self._counter("logs_sealed", "Logs that were archived.")
        size = self._counter("logs_sealed_bytes", "Output that was archived, before compression.")
        sealing = self._histogram("log_seal_seconds", "To put together and archive one log.", SLOW)
        mismatches = self._counter("log_mismatches", "Logs that are not what the node reported.")

        def created(event: RunCreated) -> None:
            runs.inc()
            tasks.inc(event.tasks)

        def attempts_moved(event: AttemptsMoved) -> None:
            for state, number in event.states.items():
                moved.labels(state=state).inc(number)

        def taken(event: FactsTaken) -> None:
            facts.inc(event.facts)
            batches.observe(event.seconds)

        def sent(event: OrdersSent) -> None:
            orders.labels(answer="yes" if event.answered else "no").inc(event.orders)

        def sealed(event: LogSealed) -> None:
            logs.inc()
            size.inc(event.bytes)
            sealing.observe(event.seconds)

        self._handlers |= {
            RunCreated: created,
            RunEnded: lambda event: ended.labels(outcome=event.outcome).inc(),
            AttemptsMoved: attempts_moved,
            FactsTaken: taken,
            FactRejected: lambda event: thrown.inc(),
            OrdersSent: sent,
            LogSealed: sealed,
            LogMismatch: lambda event: mismatches.inc(),
        }

    def _count_parts(self) -> None:
        enrolled = self._counter("nodes_enrolled", "Nodes that were admitted.")
        sessions = self._counter("node_sessions", "Starts of agents that were announced.")
        cloned = self._counter("nodes_cloned", "Times that two agents had one identity.")
        connected = self._counter("fabric_connects", "Connections to the fabric that stood.")
        trouble = self._counter("fabric_troubles", "Troubles with the fabric.")
        failures = self._counter("loop_failures", "Errors of loops, by loop.", "loop")
        units = self._histogram(
            "database_seconds", "From asking the database to its commit or result.", FAST, "kind"
        )
        failed = self._counter("database_failures", "Units the database could not do.", "kind")

        def done(event: UnitDone) -> None:
            units.labels(kind=event.kind).observe(event.seconds)
            if event.failed:
                failed.labels(kind=event.kind).inc()

        self._handlers |= {
            NodeEnrolled: lambda event: enrolled.inc(),
            NodeSession: lambda event: sessions.inc(),
            NodeCloned: lambda event: cloned.inc(),
            FabricConnected: lambda event: connected.inc(),
            FabricTrouble: lambda event: trouble.inc(),
            LoopFailed: lambda event: failures.labels(loop=loop_label(event.loop)).inc(),
            SealFailed: lambda event: failures.labels(loop="seal").inc(),
            UnitDone: done,
        }

    def _count_requests(self) -> None:
        labels = ("method", "route")
        answered = self._counter("http_requests", "Requests answered.", *labels, "status")
        seconds = self._histogram(
            "http_request_seconds", "From the head to the last byte of the answer.", SLOW, *labels
        )
        failed = self._counter("http_failures", "Requests that met an error of the server.")

        def request(event: RequestAnswered) -> None:
            method = event.method if event.method in METHODS else "other"
            answered.labels(method=method, route=event.route, status=str(event.status)).inc()
            seconds.labels(method=method, route=event.route).observe(event.seconds)

        self._handlers |= {RequestAnswered: request, RequestFailed: lambda event: failed.inc()}

    def _count_links(self) -> None:
        links = self._gauge("fabric_links", "Links to the fabric that the API's listener carries.")
        opened = self._counter("fabric_links_opened", "Links that were carried.")
        refused = self._counter("fabric_links_refused", "Links turned away, by why.", "reason")

        def more(_event: LinkOpened) -> None:
            links.inc()
            opened.inc()

        self._handlers |= {
            LinkOpened: more,
            LinkClosed: lambda event: links.dec(),
            LinkTurnedAway: lambda event: refused.labels(reason=event.reason).inc(),
        }

    def _count_traces(self) -> None:
        began = self._counter("traces_begun", "Traces that were begun here.", "kind")
        ended = self._counter("traces_ended", "Traces whose sender said how they ended.")
        lost = self._counter("traces_lost", "Traces whose sender was not heard of any more.")
        back = self._counter("traces_back", "Lost traces whose sender came back.")
        taken = self._counter("trace_bytes", "Output of traces that was taken here.", "kind")
        dropped = self._counter("trace_dropped_bytes", "Output that senders had to drop.")
        forgotten = self._counter(
            "traces_forgotten", "Traces whose past a restart of the fabric took."
        )

        def took(event: TraceTaken) -> None:
            taken.labels(kind=_kind(event.kept)).inc(event.bytes)
            dropped.inc(event.dropped)

        self._handlers |= {
            TraceBegan: lambda event: began.labels(kind=_kind(event.kept)).inc(),
            TraceEnded: lambda event: ended.inc(),
            TraceLost: lambda event: lost.inc(),
            TraceBack: lambda event: back.inc(),
            TraceTaken: took,
            TraceForgotten: lambda event: forgotten.inc(event.traces),
        }

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"qd_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"qd_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"qd_{name}", text, labels, buckets=buckets, registry=self._registry)


def _kind(kept: bool) -> str:
    return "kept" if kept else "ephemeral"


def loop_label(name: str) -> str:
    """The first word of the name of a loop or task: the others may hold ids."""
    return name.split(" ", 1)[0][:40] or "other"


class _LastReport(Collector):
    """Gauges out of the report that is being exposed."""

    def __init__(self) -> None:
        self.report: Report | None = None

    def collect(self) -> Iterator[Metric]:
        report = self.report
        if report is None:
            return
        yield _one("up_seconds", "Since the start of the server.", report.up_s)
        yield _by("nodes", "Nodes by state.", "state", report.nodes)
        yield _one("fabric_up", "1 while the fabric answers.", float(not report.fabric_problem))
        for field in ("messages", "bytes", "max_bytes"):
            fills = {fill.stream: getattr(fill, field) for fill in report.fills}
            yield _by(f"fabric_stream_{field}", f"JetStream: {field}.", "stream", fills)
        yield _one("database_up", "1 while the database works.", float(not report.database_problem))
        yield _one(
            "database_waiting", "Writes that wait for their commit.", report.database_waiting
        )
        yield _one("streams_open", "Live streams (SSE) that are open.", report.streams_open)
        yield _one(
            "streams_waiting_bytes", "Output that waits for slow viewers.", report.streams_bytes
        )
        yield _one("tasks_running", "Loops and tasks of the server.", report.tasks_total)
        yield from _foreign(report)
        if report.backlog is not None:
            yield from self._backlog(report)

    def _backlog(self, report: Report) -> Iterator[Metric]:
        work = report.backlog
        assert work is not None
        yield _by(
            "open_attempts", "Attempts not yet released, by state.", "state", work.open_attempts
        )
        yield _one("unsealed", "Ended attempts whose log is not archived.", work.unsealed)
        yield _one("due_runs", "Runs that wait for their step.", work.due_runs)
        since = partial(_age, report)
        yield _one(
            "unsealed_oldest_seconds", "Age of the oldest of them.", since(work.oldest_unsealed)
        )
        yield _one("due_oldest_seconds", "Age of the oldest of them.", since(work.oldest_due))


def _foreign(report: Report) -> Iterator[Metric]:
    """Senders of other tools, by protocol."""
    gauges = {"senders": "Traces that are open.", "connections": "Connections that are open."}
    counters = {
        "messages": "Messages that were understood.",
        "bad": "Messages that could not be read.",
        "limited": "Messages that came faster than allowed.",
        "dropped": "Bytes that found no room.",
    }
    for field, text in gauges.items():
        values = {view.protocol: getattr(view, field) for view in report.foreign}
        yield _by(f"foreign_{field}", f"Foreign senders: {text}", "protocol", values)
    for field, text in counters.items():
        family = CounterMetricFamily(
            f"qd_foreign_{field}", f"Foreign senders: {text}", labels=["protocol"]
        )
        for view in report.foreign:
            family.add_metric([view.protocol], getattr(view, field))
        yield family


def _age(report: Report, since: Any) -> float:
    return 0.0 if since is None else max(0.0, (report.at - since).total_seconds())


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"qd_{name}", text, value=value)


def _by(name: str, text: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(f"qd_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
