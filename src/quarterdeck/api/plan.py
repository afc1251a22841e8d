"""The part of a run's body that says how its tasks follow one another: limits, canary, retry."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from quarterdeck.api.body import Body, Request, Seconds
from quarterdeck.core.label import check_labels
from quarterdeck.core.model import (
    DEFAULT_OFFLINE_TTL_S,
    Amount,
    OnLimit,
    Pick,
    PickBy,
    Plan,
    Retry,
)
from quarterdeck.core.plan import amount_text, parse_amount
from quarterdeck.errors import Invalid

MAX_TASKS = 1_000_000
MAX_ATTEMPTS = 100
MAX_PRIORITY = 1000
PERCENT = r"[0-9]{1,3}(\.[0-9]{1,3})?%"
Number = Annotated[int, Meta(ge=0, le=MAX_TASKS)]
Text = Annotated[str, Meta(max_length=32, pattern=rf"^([0-9]{{1,7}}|{PERCENT})(,({PERCENT}))?$")]
Codes = Annotated[tuple[Annotated[int, Meta(ge=0, le=255)], ...], Meta(max_length=256)]


class RetryRequest(Request, frozen=True, kw_only=True):
    """How often a task is tried in all, and when again: after `delay_s`, then `factor` times as
    long each time up to `max_delay_s`, each drawn evenly between nothing and that."""

    attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] = 1
    delay_s: Seconds = 1.0
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_delay_s: Seconds = 300.0
    retry_on: Codes = ()
    never_on: Codes = ()
    elsewhere: bool = False
    idempotent: bool = False


class PickRequest(Request, frozen=True, kw_only=True):
    """So many nodes of those that the target hits: those with the lowest figure. `label` names the
    label whose number is compared. Limits are percent; 0 is none."""

    count: Annotated[int, Meta(ge=1, le=MAX_TASKS)]
    by: PickBy = PickBy.LEAST_LOAD
    label: Annotated[str, Meta(max_length=64)] = ""
    max_cpu: Annotated[float, Meta(ge=0, le=100)] = 0.0
    max_memory: Annotated[float, Meta(ge=0, le=100)] = 0.0


class PlanRequest(Request, frozen=True, kw_only=True):
    """Amounts are a number, a percentage of the targets (`20%`), or both (`2,10%`)."""

    max_parallel: Number | Text | None = None
    max_failures: Number | Text | None = None
    on_limit: Literal["finish", "stop"] = "finish"
    canary: Number = 0
    deadline_s: Seconds = 0.0
    offline_ttl_s: Seconds = DEFAULT_OFFLINE_TTL_S
    retry: RetryRequest = RetryRequest()
    pick: PickRequest | None = None
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    labels: Annotated[dict[str, str], Meta(max_length=64)] = {}


class RetryBody(Body, frozen=True, kw_only=True):
    attempts: int
    delay_s: float
    factor: float
    max_delay_s: float
    retry_on: tuple[int, ...]
    never_on: tuple[int, ...]
    elsewhere: bool
    idempotent: bool


class PickBody(Body, frozen=True, kw_only=True):
    count: int
    by: str
    label: str
    max_cpu: float
    max_memory: float


class PlanBody(Body, frozen=True, kw_only=True):
    """What was asked of the order of tasks; null is no limit."""

    max_parallel: str | None
    max_failures: str | None
    on_limit: str
    canary: int
    deadline_s: float
    offline_ttl_s: float
    retry: RetryBody
    pick: PickBody | None
    priority: int


def plan_of(request: PlanRequest) -> Plan:
    """The plan in a request. Raises Invalid for amounts that mean nothing."""
    parallel = _amount(request.max_parallel, "max_parallel")
    if parallel is not None and 0 in (parallel.count, parallel.percent):
        raise Invalid("amount", "max_parallel: at least one task must be allowed at once.")
    return Plan(
        max_parallel=parallel,
        max_failures=_amount(request.max_failures, "max_failures"),
        on_limit=OnLimit(request.on_limit),
        canary=request.canary,
        deadline_s=request.deadline_s,
        offline_ttl_s=request.offline_ttl_s,
        retry=Retry(**msgspec.structs.asdict(request.retry)),
        pick=_pick(request.pick),
        priority=request.priority,
    )


def labels_of(request: PlanRequest) -> dict[str, str]:
    """The labels of the run. Raises Invalid."""
    check_labels(request.labels)
    return request.labels


def plan_body(plan: Plan) -> PlanBody:
    return PlanBody(
        max_parallel=amount_text(plan.max_parallel) if plan.max_parallel else None,
        max_failures=amount_text(plan.max_failures) if plan.max_failures else None,
        on_limit=plan.on_limit.value,
        canary=plan.canary,
        deadline_s=plan.deadline_s,
        offline_ttl_s=plan.offline_ttl_s,
        retry=RetryBody(**msgspec.structs.asdict(plan.retry)),
        pick=None if plan.pick is None else PickBody(**msgspec.structs.asdict(plan.pick)),
        priority=plan.priority,
    )


def _pick(request: PickRequest | None) -> Pick | None:
    if request is None:
        return None
    if (request.by is PickBy.LABEL) != bool(request.label):
        raise Invalid("pick", "pick: `label` names the label that `by` = `label` compares.")
    return Pick(**msgspec.structs.asdict(request))


def _amount(given: int | str | None, what: str) -> Amount | None:
    return None if given is None else parse_amount(str(given), what)
