"""Windows of what was said last, in the memory of either fabric."""

from __future__ import annotations

import asyncio

from quarterdeck.fabric.base import Fabric, Stored, Window
from quarterdeck.fabric.topology import drop_window, ensure_window
from tests.contracts.fabric_place import DEADLINE_S, Place

WINDOW = Window(stream="TRACE_a", subject="trace.a.>", max_bytes=1 << 20, max_age_s=3600)
SUBJECT = "trace.a.deploy.web-1.t1"


async def held(fabric: Fabric) -> list[bytes]:
    return [kept.data async for kept in fabric.replay(WINDOW.stream, "trace.a.deploy.>")]


async def test_a_window_is_made_once_and_says_so(place: Place) -> None:
    server = await place.join("server", "s1")
    assert await ensure_window(server, WINDOW)
    assert isinstance(await server.store(SUBJECT, b"one"), Stored)
    assert not await ensure_window(server, WINDOW)
    changed = Window(stream="TRACE_a", subject="trace.a.>", max_bytes=2 << 20, max_age_s=60)
    assert not await ensure_window(server, changed)
    assert await held(server) == [b"one"]
    await drop_window(server, WINDOW.stream)
    await drop_window(server, WINDOW.stream)
    assert await ensure_window(server, WINDOW)
    assert await held(server) == []


async def test_what_does_not_fit_any_more_leaves_a_window_oldest_first(place: Place) -> None:
    server = await place.join("server", "s1")
    await ensure_window(server, WINDOW)
    sent = [bytes([number]) * (100 << 10) for number in range(24)]
    answers = await asyncio.gather(*(server.store(SUBJECT, data) for data in sent))
    assert all(isinstance(answer, Stored) for answer in answers)
    kept = await held(server)
    assert 8 <= len(kept) <= 10
    assert kept == sent[-len(kept) :]


async def test_what_is_too_old_leaves_a_window(place: Place) -> None:
    server = await place.join("server", "s1")
    short = Window(stream="TRACE_a", subject="trace.a.>", max_bytes=1 << 20, max_age_s=0.5)
    await ensure_window(server, short)
    await server.store(SUBJECT, b"one")
    assert await held(server) == [b"one"]
    async with asyncio.timeout(DEADLINE_S):
        while await held(server):
            pass
    assert not await ensure_window(server, short)


async def test_a_restart_of_the_fabric_takes_a_window_and_its_stream(place: Place) -> None:
    server = await place.join("server", "s1")
    await ensure_window(server, WINDOW)
    await server.store(SUBJECT, b"one")
    back = asyncio.Event()
    server.on_connect(back.set)
    place.kill()
    await place.up()
    async with asyncio.timeout(DEADLINE_S):
        await back.wait()
    assert await ensure_window(server, WINDOW)
    assert await held(server) == []
    await server.store(SUBJECT, b"two")
    assert await held(server) == [b"two"]
