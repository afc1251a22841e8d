"""What many ask for at once is done once, and one that can't be done fails nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from quarterdeck.control.together import Together
from quarterdeck.errors import Conflict
from quarterdeck.service import Services, SystemClock


class Desk:
    """Doubles numbers, in batches; 13 can't be doubled."""

    def __init__(self, most: int = 100) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.busy = asyncio.Event()
        self.services = Services(lambda *_: None, SystemClock())
        self.double = Together("doubling", self._work, services=self.services, most=most)

    async def _work(self, numbers: Sequence[int]) -> Sequence[int]:
        self.batches.append(tuple(numbers))
        self.busy.set()
        await asyncio.sleep(0)
        if 13 in numbers:
            raise Conflict("unlucky", "13 can't be doubled.")
        return [2 * number for number in numbers]


async def test_what_is_asked_in_one_turn_is_done_in_one_batch() -> None:
    desk = Desk()
    assert await asyncio.gather(*map(desk.double, range(5))) == [0, 2, 4, 6, 8]
    assert desk.batches == [(0, 1, 2, 3, 4)]


async def test_a_batch_has_an_end() -> None:
    desk = Desk(most=2)
    await asyncio.gather(*map(desk.double, range(5)))
    assert desk.batches == [(0, 1), (2, 3), (4,)]


async def test_what_is_asked_while_a_batch_is_under_way_makes_the_next() -> None:
    desk = Desk()
    first = desk.services.spawn(desk.double(1), "first")
    await desk.busy.wait()
    assert list(await asyncio.gather(first, desk.double(2), desk.double(3))) == [2, 4, 6]
    assert desk.batches == [(1,), (2, 3)]


async def test_one_that_fails_fails_alone() -> None:
    desk = Desk()
    results = await asyncio.gather(*map(desk.double, (1, 13, 2)), return_exceptions=True)
    assert (results[0], results[2]) == (2, 4)
    assert isinstance(results[1], Conflict)


async def test_whoever_waits_is_let_go_when_the_server_stops() -> None:
    desk = Desk()
    never = asyncio.Event()

    async def stuck(_numbers: Sequence[int]) -> Sequence[int]:
        await never.wait()
        return ()

    asking = Together("stuck", stuck, services=desk.services, most=1)
    waiting = [asyncio.ensure_future(asking(number)) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await desk.services.stop()
    for one in waiting:
        with pytest.raises(asyncio.CancelledError):
            await one
