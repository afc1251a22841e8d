"""The reader of the fabric's TCP links: every byte once and in order, whoever is quicker."""

from __future__ import annotations

import asyncio

import pytest

from quarterdeck.fabric.nats.tcp import Pieces

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
