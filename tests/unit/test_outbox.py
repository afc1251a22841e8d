"""Facts that the stream refuses for their size keep no others back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from quarterdeck.agent.outbox import SHORT_ERROR, Outbox
from quarterdeck.fabric.base import Delivery
from quarterdeck.service import Services, SystemClock
from quarterdeck.telemetry import Event, FactTooLarge, Telemetry
from quarterdeck.wire.codec import decode
from quarterdeck.wire.run import AttemptSnapshot
from tests.contracts.fabric_place import MemoryPlace, opened, take

RUN = "0123456789abcdef"


def fact(number: int, **more: object) -> AttemptSnapshot:
    base = {"attempt": f"{RUN}-{number}-1", "revision": 3, "phase": "ended", "accepted_at": 1.0}
    return AttemptSnapshot(**base, **more)  # type: ignore[arg-type]


@pytest.fixture
async def place() -> AsyncIterator[MemoryPlace]:
    made = MemoryPlace()
    async with opened(made):
        yield made


async def test_a_fact_that_is_too_large_is_said_in_fewer_words_or_dropped(
    place: MemoryPlace,
) -> None:
    server, node = await place.fleet(ev_message_bytes=2 * SHORT_ERROR)
    told: list[Event] = []
    telemetry = Telemetry()
    telemetry.subscribe(told.append)
    services = Services(telemetry.loop_failed, SystemClock())
    outbox = Outbox(node="n1", session="s", fabric=node, services=services, telemetry=telemetry)
    services.loop("facts", outbox.send_facts)
    try:
        outbox.put(fact(1, error="x" * 100_000))
        outbox.put(fact(2, error="\U0001f600" * SHORT_ERROR))
        outbox.put(fact(3))
        deliveries = server.consume("EV", "ingest", batch=10)
        found = [_read(one) for one in await take(deliveries, 2)]
        await deliveries.aclose()  # type: ignore[attr-defined]
    finally:
        await services.stop()
    errors = {one.attempt[-3]: one.error for one in found}
    assert errors == {"1": "x" * SHORT_ERROR + " ...", "3": None}
    large = [event.attempt[-3] for event in told if isinstance(event, FactTooLarge)]
    assert sorted(large) == ["1", "2"]
    assert f"{RUN}-2-1" not in outbox._newest and not outbox._pause_s


def _read(delivery: Delivery) -> AttemptSnapshot:
    delivery.ack()
    message: AttemptSnapshot = decode(delivery.data, AttemptSnapshot)
    return message
