"""The link ends when its task is told to, whatever a dial makes of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from quarterdeck.errors import Unavailable
from quarterdeck.fabric.connection import RawHandler
from quarterdeck.fabric.nats.link import Link, Options
from quarterdeck.service import Services
from tests.clocks import HandClock

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0


class Deaf:
    """A connection whose dial, as `asyncio.wait_for` before Python 3.12 may, gives its result to
    whoever cancels it. The first dial of all is well."""

    max_payload = 1 << 20
    unsent = 0

    def __init__(self, dials: list[str], again: asyncio.Event, ends_well: bool) -> None:
        self.lost_reason: str | None = None
        self.on_lost: dict[Callable[[], None], None] = {}
        self._dials = dials
        self._again = again
        self._ends_well = ends_well

    async def open(self, url: str) -> None:
        self._dials.append(url)
        if len(self._dials) == 1:
            return
        self._again.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if not self._ends_well:
                raise Unavailable("fabric_unreachable", f"{url} hung up.") from None

    async def dispose(self) -> None:
        return

    def over(self, reason: str) -> None:
        self.lost_reason = reason

    def post(
        self, subject: str, data: bytes | bytearray, reply: str = "", headers: bytes = b""
    ) -> None:
        raise AssertionError("nothing is sent here")

    def attach(self, subject: str, handler: RawHandler, queue: str = "") -> int:
        return 1

    def detach(self, sid: int) -> None:
        return

    def retire(self, sid: int, last: RawHandler) -> None:
        return

    async def room(self) -> None:
        return

    async def barrier(self, timeout_s: float) -> bool:
        return True


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_link_ends_also_when_its_dial_swallows_that_it_was_told_to(ends_well: bool) -> None:
    services = Services(lambda name, what, delay_s: None, HandClock())
    dials: list[str] = []
    again = asyncio.Event()
    link = Link(
        ["nats://here", "nats://there"],
        "n1",
        connect=lambda lost, complain: Deaf(dials, again, ends_well),
        spawn=services.spawn,
        random=lambda: 0.0,
        options=Options(),
        up=lambda client: None,
        down=lambda: None,
        complain=lambda text: None,
    )
    await link.start()
    link.reconnect()
    async with asyncio.timeout(DEADLINE_S):
        await again.wait()
        await services.stop()
        await link.stop()
    assert len(dials) == 2
