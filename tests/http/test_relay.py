"""The fabric's WebSocket at `/fabric` of the API's listener: bytes both ways, bounded, counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.api.patience import Patience
from quarterdeck.api.relay import Far, far_of
from quarterdeck.fabric.base import Limits, Stored
from quarterdeck.fabric.certificates import Signer
from quarterdeck.fabric.embedded import EmbeddedFabric, WebSocket
from quarterdeck.fabric.trust import trusting
from quarterdeck.telemetry import LinkClosed, LinkOpened, LinkTurnedAway
from tests.contracts.fabric_place import opened
from tests.contracts.fabric_server import Harbour
from tests.http.http_host import HttpHost, listening

ASK = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: abc\r\n\r\n"
)
DEADLINE_S = 15.0
NOWHERE = "nats://127.0.0.1:1"  # a fabric that never answers: the relay needs none


class FarEnd:
    """What stands where nats-server would: hands its connections to the test."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self.arrived = asyncio.Queue()
        self._server: asyncio.Server | None = None

    async def start(self) -> Far:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.arrived.put_nowait((reader, writer))
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        self._server = await asyncio.start_server(take, "127.0.0.1", 0)
        return Far(host="127.0.0.1", port=self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


@contextlib.asynccontextmanager
async def relay(root: Path, **settings: Any) -> AsyncIterator[tuple[HttpHost, FarEnd]]:
    end = FarEnd()
    patience = Patience(head_s=0.3, piece_s=0.3, body_s=0.3)
    try:
        far = await end.start()
        async with listening(root, NOWHERE, patience=patience, far=far, **settings) as (host, _):
            yield host, end
    finally:
        await end.stop()


async def call(
    host: HttpHost, path: bytes = b"/fabric"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    writer.write(ASK % path)
    return reader, writer


async def closed(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_the_request_and_then_every_byte_go_to_the_fabric_and_back(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), relay(tmp_path) as (host, end):
        for path in (b"/fabric", b"/fabric/leafnode"):
            reader, writer = await call(host, path)
            far_reader, far_writer = await end.arrived.get()
            head = await far_reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"GET %s HTTP/1.1\r\n" % path)
            assert b"sec-websocket-key: abc\r\n" in head.lower()
            noise = bytes(range(256)) * 4096
            far_writer.write(noise)
            writer.write(noise[::-1])
            assert await reader.readexactly(len(noise)) == noise
            assert await far_reader.readexactly(len(noise)) == noise[::-1]
            await closed(writer)
            assert await far_reader.read() == b""
            await closed(far_writer)
        await host.ears.until(LinkClosed, 2)
        assert len(host.ears.all(LinkOpened)) == 2
        text = (await host.ask("/metrics")).body.decode()
        assert "qd_fabric_links 0.0" in text and "qd_fabric_links_opened_total 2.0" in text


async def test_a_link_without_a_word_outlives_the_patience_for_requests(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), relay(tmp_path) as (host, end):
        reader, writer = await call(host)
        far_reader, far_writer = await end.arrived.get()
        slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", host.port)
        assert b"408" in await slow_reader.readline()  # so long have we waited
        far_writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        await closed(writer, far_writer, slow_writer)
        del far_reader


async def test_who_does_not_read_stops_the_fabric_from_sending_and_costs_little(
    tmp_path: Path,
) -> None:
    async with asyncio.timeout(60), relay(tmp_path) as (host, end):
        reader, writer = await call(host)
        _, far_writer = await end.arrived.get()
        sent, piece = 0, b"x" * 65536
        stuck = asyncio.Event()

        async def flood() -> None:
            nonlocal sent
            while True:
                far_writer.write(piece)
                sent += len(piece)
                try:
                    async with asyncio.timeout(1.0):
                        await far_writer.drain()
                except TimeoutError:
                    stuck.set()
                    return

        # our own reader's limit, and the buffers of four sockets, are all that fills
        await flood()
        assert stuck.is_set() and sent < 48 << 20
        got = 0
        while got < sent:
            got += len(await reader.read(1 << 20))
        assert got == sent
        await closed(writer, far_writer)


async def test_what_is_not_there_and_what_is_too_much_is_turned_away(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), relay(tmp_path, max_links=1) as (host, end):
        reader, writer = await call(host, b"/elsewhere")
        assert b"404" in await reader.readline()
        first_reader, first_writer = await call(host)
        _, far_writer = await end.arrived.get()
        full_reader, full_writer = await call(host)
        answer = await full_reader.read()
        assert b"503" in answer.split(b"\r\n")[0] and b"max_links" in answer
        await closed(writer, full_writer, first_writer, far_writer)
        await host.ears.until(LinkClosed)
        again_reader, again_writer = await call(host)
        _, far_writer = await end.arrived.get()
        await closed(again_writer, far_writer)
        assert {event.reason for event in host.ears.all(LinkTurnedAway)} == {
            "no_route",
            "too_many_links",
        }
        del first_reader, again_reader


async def test_a_fabric_that_is_away_is_said_to_be_in_a_sentence(tmp_path: Path) -> None:
    far = Far(host="127.0.0.1", port=1)
    async with asyncio.timeout(DEADLINE_S), listening(tmp_path, NOWHERE, far=far) as (host, _):
        reader, writer = await call(host)
        answer = await reader.read()
        assert b"503" in answer.split(b"\r\n")[0] and b"The fabric does not answer" in answer
        await closed(writer)


@pytest.mark.parametrize("cut", ["near", "far"])
async def test_the_end_of_one_side_is_the_end_of_the_other(tmp_path: Path, cut: str) -> None:
    async with asyncio.timeout(DEADLINE_S), relay(tmp_path) as (host, end):
        reader, writer = await call(host)
        far_reader, far_writer = await end.arrived.get()
        await far_reader.readuntil(b"\r\n\r\n")
        if cut == "near":
            writer.transport.abort()
            assert await far_reader.read() == b""
        else:
            far_writer.write(b"last words")
            far_writer.close()
            assert await reader.read() == b"last words"
        await host.ears.until(LinkClosed)
        await closed(writer, far_writer)


async def test_a_server_that_stops_ends_its_links(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), relay(tmp_path) as (host, end):
        reader, writer = await call(host)
        _, far_writer = await end.arrived.get()
        await host.http.stop()
        assert await reader.read() == b""
        await closed(writer, far_writer)


async def test_a_fabric_on_another_machine_is_reached_by_tls_and_nodes_work_through_the_server(
    tmp_path: Path,
) -> None:
    """As `qd fabric --websocket-listen` and `websocket_url = "wss://..."` set it up."""
    now = datetime.now(UTC)
    place = Harbour(tmp_path)
    signer = Signer.open(tmp_path / "authority", now)
    pem = tmp_path / "tls.pem"
    signer.leaf(pem, ["127.0.0.1"], now)
    place.server = EmbeddedFabric(
        tmp_path / "fabric", place.authority, websocket=WebSocket(tls=pem)
    )
    async with opened(place):
        assert place.server.websocket_url.startswith("wss://")
        far = far_of(place.server.websocket_url, trusting(signer.pem))
        server = await place.join("server", "s1")
        await server.ensure_streams(Limits())
        async with listening(tmp_path, place.server.url, far=far) as (host, starting):
            await starting
            node = await place.join("node", "n1", url=f"ws://127.0.0.1:{host.port}/fabric")
            assert await node.store("ev.n1.attempt", b"fact", message_id="1") == Stored(1)
            await node.stop()
