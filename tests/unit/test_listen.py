"""The listener of HTTP: what is accepted from it sends at once."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quarterdeck.api.listen import bind


@pytest.mark.parametrize("handed_on", [False, True])
async def test_an_answer_in_two_pieces_does_not_wait_for_the_first_to_be_acknowledged(
    handed_on: bool,
) -> None:
    listener = bind("127.0.0.1:0")
    if handed_on:  # `qd up` binds, and its server gets the descriptor
        listener = socket.socket(fileno=listener.detach())
    at_once: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        at_once.set_result(bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()

    async with await asyncio.start_server(accepted, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asyncio.wait_for(at_once, 10)
        writer.close()
        await writer.wait_closed()
