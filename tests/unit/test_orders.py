"""What an agent answers to orders that come again, after the first answer was lost."""

from __future__ import annotations

from typing import cast

import pytest

from quarterdeck.agent import orders
from quarterdeck.agent.held import Refusal
from quarterdeck.agent.host import Host
from quarterdeck.agent.orders import OrderDesk
from quarterdeck.agent.run import Attempts
from quarterdeck.agent.simulated.host import SimulatedHost
from quarterdeck.agent.simulated.machine import SimulatedMachine
from quarterdeck.core.states import RefusalCode
from quarterdeck.fabric.base import Fabric
from quarterdeck.service import Services, SystemClock
from quarterdeck.telemetry import Telemetry
from quarterdeck.wire.run import (
    AnswerItem,
    AttemptBusy,
    AttemptRefused,
    OrderMessage,
    ReleaseAttempt,
    RevokeAttempt,
    StartAttempt,
)

ID = "0123456789abcdef-0-1"
START = StartAttempt(attempt=ID, order=OrderMessage(argv=("true",)))
FULL = AttemptRefused(attempt=ID, code=RefusalCode.DISK, text="The disk is full.")


class NoAttempts:
    """A node that holds nothing."""

    def report(self, _: str) -> None:
        return None


class Desk:
    """An agent's order desk on a machine; `full` is why it takes no work."""

    def __init__(self, host: Host) -> None:
        self.full = FULL.text
        telemetry = Telemetry()
        self._desk = OrderDesk(
            node="n",
            session="s",
            order_keys=lambda: (),
            fabric=cast(Fabric, None),
            host=host,
            attempts=cast(Attempts, NoAttempts()),
            services=cast(Services, None),
            telemetry=telemetry,
            full=lambda: self.full,
            beat=lambda: None,
        )

    @property
    def remembered(self) -> dict[str, Refusal]:
        return self._desk._refused

    async def ask(self, item: StartAttempt | RevokeAttempt | ReleaseAttempt) -> AnswerItem:
        return await self._desk._do(item)


@pytest.fixture
def machine() -> SimulatedMachine:
    return SimulatedMachine("m", SystemClock())


async def test_a_start_that_was_refused_is_refused_again_in_the_same_words(
    machine: SimulatedMachine,
) -> None:
    desk = Desk(SimulatedHost(machine))
    assert await desk.ask(START) == FULL
    desk.full = ""
    assert await desk.ask(START) == FULL
    assert await desk.ask(RevokeAttempt(attempt=ID)) == FULL
    assert await Desk(SimulatedHost(machine)).ask(START) == FULL


async def test_on_a_disk_that_takes_no_tombstone_the_session_keeps_the_words(
    machine: SimulatedMachine,
) -> None:
    machine.full = True
    desk = Desk(SimulatedHost(machine))
    assert await desk.ask(START) == FULL == await desk.ask(START)
    assert machine.tombstones == {}


async def test_without_room_to_remember_nothing_is_refused(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "MOST_REFUSED", 3)
    machine.full = True
    desk = Desk(SimulatedHost(machine))
    asked = [StartAttempt(attempt=f"{ID[:-1]}{n}", order=START.order) for n in range(1, 6)]
    told = [await desk.ask(item) for item in asked]
    refused, busy = told[:3], told[3:]
    assert all(isinstance(answer, AttemptRefused) for answer in refused)
    assert all(isinstance(answer, AttemptBusy) and "make room" in answer.text for answer in busy)
    desk.full = ""
    assert [await desk.ask(item) for item in asked[:3]] == refused, "what was refused stays so"
    machine.full = False
    assert [await desk.ask(item) for item in asked[:3]] == refused
    assert set(machine.tombstones) == {item.attempt for item in asked[:3]}
    assert not desk.remembered, "what the disk keeps is not kept twice"


async def test_what_was_called_off_or_released_stays_called_off(
    machine: SimulatedMachine,
) -> None:
    host = SimulatedHost(machine)
    desk = Desk(host)
    other = ID[:-1] + "2"
    for attempt, asked in ((ID, RevokeAttempt(attempt=ID)), (other, None)):
        if asked is None:
            await host.release(other)
        else:
            await desk.ask(asked)
        answer = await desk.ask(StartAttempt(attempt=attempt, order=START.order))
        assert isinstance(answer, AttemptRefused) and answer.code is RefusalCode.REVOKED
        assert host.buried(attempt) == Refusal(code=RefusalCode.REVOKED, text=answer.text)
