"""What waits for other machines holds nothing up: neither a task nor the end of the process."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from quarterdeck.errors import Unavailable
from quarterdeck.service import outside, run

DEADLINE_S = 20.0


@pytest.mark.anyio
async def test_what_waits_outside_gives_its_result_or_raises_its_error() -> None:
    def fail() -> None:
        raise Unavailable("server", "It is away.")

    assert await outside(lambda: threading.current_thread().daemon)
    with pytest.raises(Unavailable, match="It is away"):
        await outside(fail)


def test_nobody_waits_for_a_name_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered, asked = threading.Event(), threading.Event()

    def slow(*_where: object, **_how: object) -> list[object]:
        asked.set()
        answered.wait(DEADLINE_S)
        return []

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0.05):
            await loop.create_connection(asyncio.Protocol, "far.example", 4222)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with pytest.raises(TimeoutError):
            run(connect())
        assert asked.is_set() and not answered.is_set()
        assert any(thread.name == "outside" for thread in threading.enumerate())
    finally:
        answered.set()
