"""Clients that send half a request or do not read: they are cut off, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck.api.patience import Patience
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.ready import Stage
from quarterdeck.errors import Unavailable
from quarterdeck.telemetry import NodeSession
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import API, HttpHost, answering, listening
from tests.integration.server_host import HandNode, order

DEADLINE_S = 10.0
TRIES = 5
QUICK = Patience(head_s=0.3, piece_s=0.3, body_s=1.0)
NOWHERE = "nats://127.0.0.1:1"
HEAD = (
    f"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API}\r\n"
    "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
).encode()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with listening(tmp_path, NOWHERE, patience=QUICK) as (found, _):
        async with asyncio.timeout(6 * DEADLINE_S):  # before that a request is told to come again
            while found.server.progress.missing(Stage.RECORD):
                with contextlib.suppress(Unavailable):
                    await found.server.progress.until(Stage.RECORD)
        yield found


async def until_cut(port: int, *pieces: bytes, every_s: float = 0.0) -> bytes:
    """Send pieces and stay silent; what came until the server closed. Nothing when a piece met it
    closed, for then the kernel drops what came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.get_running_loop().create_task(reader.read())
    try:
        async with asyncio.timeout(DEADLINE_S):
            for piece in pieces:
                writer.write(piece)
                done, _ = await asyncio.wait([reading], timeout=every_s)
                if done:
                    break
            return await reading
    except ConnectionError:
        return b""
    finally:
        reading.cancel()
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nX: ", HEAD, HEAD + b'{"target"'])
async def test_a_request_that_does_not_come_is_cut_off_with_408(
    host: HttpHost, sent: bytes
) -> None:
    answer = await until_cut(host.port, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "too_slow"


async def test_dripping_does_not_lengthen_the_time(host: HttpHost) -> None:
    fields = [b"X-%d: y\r\n" % n for n in range(50)]
    for begin, drops in ((b"GET /healthz HTTP/1.1\r\n", fields), (HEAD, [b" "] * 60)):
        answer = b""
        for _ in range(TRIES):
            answer = answer or await until_cut(host.port, begin, *drops, every_s=0.05)
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_the_next_request_on_a_connection_is_timed_too(host: HttpHost) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await until_cut(host.port, whole + b"GET /hea")
    assert answer.startswith(b"HTTP/1.1 200 ")
    answer = await until_cut(host.port, whole, b"GET /hea", every_s=0.1)
    assert answer.count(b"HTTP/1.1 ") == 2 and b"HTTP/1.1 408 " in answer


async def test_a_request_in_pieces_that_come_in_time_is_answered(host: HttpHost) -> None:
    parts = [b"GET /healthz ", b"HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\n\r\n"]
    answer = await until_cut(host.port, *parts, every_s=0.02)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_who_was_answered_without_its_body_is_cut_off_without_a_second_answer(
    host: HttpHost,
) -> None:
    answer = await until_cut(host.port, HEAD.replace(b"/v1/runs", b"/v1/nothing"))
    assert answer.startswith(b"HTTP/1.1 404 ") and answer.count(b"HTTP/1.1 ") == 1


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


async def test_one_stream_too_many_is_told_so_and_a_closed_one_makes_room(place: Harbour) -> None:
    async with answering(place.root, place.server.url, max_streams=2) as host:
        node = HandNode(place, host.server, "hand")
        await node.join()
        await host.ears.until(NodeSession)
        run = await order(host.server, "hand")
        await node.fabric.stop()
        ask = (
            f"GET /v1/runs/{run}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API}\r\n\r\n"
        ).encode()
        open_streams = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(ask)
            async with asyncio.timeout(DEADLINE_S):
                await reader.readuntil(b"event: run")
            open_streams.append(writer)
        refused = await host.ask(f"/v1/runs/{run}/events")
        assert (refused.status, refused.json["code"]) == (503, "too_many_streams")
        for writer in open_streams:
            writer.close()
        async with asyncio.timeout(DEADLINE_S):
            while host.server.watching.crowd.watching:
                await host.ask("/healthz")
        again = await host.ask(f"/v1/runs/{run}/events?follow=false")
        assert again.status == 200


def test_what_waits_for_all_watchers_together_is_bounded() -> None:
    crowd = Crowd(1, most_bytes=100)
    crowd.enter()
    with pytest.raises(Unavailable):
        crowd.enter()
    crowd.keep(90)
    assert crowd.has_room(10) and not crowd.has_room(11)
    crowd.give_back(90)
    assert crowd.has_room(100)
