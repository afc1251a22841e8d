"""The reader of the fabric's TCP links: every byte once and in order, whoever is quicker."""

from __future__ import annotations

import asyncio

import pytest

from quarterdeck.fabric.nats.tcp import Pieces
from tests.sim import clock

LIMIT = 1 << 16


async def test_who_waits_gets_the_piece_itself() -> None:
    reader = Pieces(LIMIT)
    reading = asyncio.ensure_future(reader.read(10))
    await asyncio.sleep(0)
    piece = b"x" * 100
    reader.feed_data(piece)
    assert await reading is piece


async def test_what_comes_before_the_reader_takes_its_piece_follows_it() -> None:
    reader = Pieces(LIMIT)
    reading = asyncio.ensure_future(reader.read(10))
    await asyncio.sleep(0)
    for piece in (b"first ", b"second ", b"third"):
        reader.feed_data(piece)
    assert await reading == b"first "
    assert await reader.read(100) == b"second third"


async def test_a_piece_is_not_lost_with_a_reader_that_was_cancelled() -> None:
    reader = Pieces(LIMIT)
    reading = asyncio.ensure_future(reader.read(10))
    await asyncio.sleep(0)
    reader.feed_data(b"kept")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    reader.feed_data(b" too")
    reader.feed_eof()
    assert not reader.at_eof()
    assert await reader.read(10) == b"kept"
    assert await reader.read(10) == b" too"
    assert reader.at_eof()
    assert await reader.read(10) == b""


async def test_the_end_and_an_error_wake_who_waits() -> None:
    for end in (Pieces.feed_eof, lambda reader: reader.set_exception(ConnectionResetError())):
        reader = Pieces(LIMIT)
        reading = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        end(reader)
        if reader.exception() is None:
            assert await reading == b""
        else:
            with pytest.raises(ConnectionResetError):
                await reading


class Socket(asyncio.ReadTransport):
    """Counts how often it was left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.resting = False
        self.rests = 0

    def pause_reading(self) -> None:
        self.resting = True
        self.rests += 1

    def resume_reading(self) -> None:
        self.resting = False


def rests(size: int, every_s: float, count: int = 200) -> tuple[int, bytes]:
    """How often the socket rests while pieces come so often; what was read of them."""

    async def fed() -> tuple[int, bytes]:
        reader, socket = Pieces(LIMIT * size), Socket()
        reader.set_transport(socket)
        waiting = bytearray()
        for number in range(count):
            waiting += bytes([number]) * size
            if not socket.resting:
                reader.feed_data(bytes(waiting))
                waiting.clear()
            await clock.pause(every_s)
        await clock.pause(0.1)
        assert not socket.resting
        reader.feed_data(bytes(waiting))
        return socket.rests, await reader.readexactly(count * size)

    return clock.run(fed, seed=1)


def test_a_socket_rests_between_many_small_pieces_and_only_then() -> None:
    often, read = rests(100, every_s=0.001)
    assert 10 < often < 100
    assert read == b"".join(bytes([number]) * 100 for number in range(200))
    assert rests(100, every_s=0.02)[0] == 0
    assert rests(8 << 10, every_s=0.001)[0] == 0


def test_a_socket_that_rested_reads_at_once_when_the_crowd_is_gone() -> None:
    async def fed() -> None:
        reader, socket = Pieces(LIMIT), Socket()
        reader.set_transport(socket)
        for _ in range(100):
            reader.feed_data(b"x")
            await clock.pause(0.002)
        assert socket.rests
        await clock.pause(1.0)
        for _ in range(20):
            reader.feed_data(b"x")
            rested, socket.rests = socket.rests, 0
            await clock.pause(0.02)
        assert not rested

    clock.run(fed, seed=1)
