"""A viewer of a name of traces over a real socket: server-sent events, one by one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.http.http_host import API

DEADLINE_S = 20.0


class Viewer:
    """The events of one connection, and the id that goes on after the last one."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.last_id = ""
        self.told: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """The next event. Raises EOFError at the end of the stream."""
        async with asyncio.timeout(DEADLINE_S):
            data: dict[str, Any] | None = None
            while True:
                line = await self._reader.readline()
                if not line:
                    raise EOFError
                if line == b"\n" and data is not None:
                    self.told.append(data)
                    return data
                if line.startswith(b"id: "):
                    self.last_id = line[4:].decode().rstrip("\n")
                if line.startswith(b"data: "):
                    data = json.loads(line[6:])

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next event of a kind with these fields; what comes before is among the told."""
        while True:
            event = await self.next()
            if event["type"] == kind and fields.items() <= event.items():
                return event

    async def rest(self) -> list[dict[str, Any]]:
        """Everything up to the end of the stream."""
        with contextlib.suppress(EOFError):
            while True:
                await self.next()
        return self.told


def data_of(event: dict[str, Any]) -> bytes:
    text = event.get("data")
    return base64.b64decode(event["data_b64"]) if text is None else str(text).encode()


def output(told: list[dict[str, Any]], node: str, stream: str = "stdout") -> bytes:
    """What was told of a stream; each byte exactly once, in order."""
    found = b""
    for event in told:
        if event["type"] == "output" and (event["node"], event["stream"]) == (node, stream):
            assert event["offset"] == len(found), (event, len(found))
            found += data_of(event)
    return found


@contextlib.asynccontextmanager
async def viewing(
    port: int, name: str, query: str = "", *, after: str = "", token: str = API
) -> AsyncIterator[Viewer]:
    """HTTP 1.0, so that the body comes as it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 << 20)
    head = f"GET /v1/trace/{name}/stream?{query} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n"
    if after:
        head += f"Last-Event-ID: {after}\r\n"
    writer.write(f"{head}\r\n".encode())
    try:
        async with asyncio.timeout(DEADLINE_S):
            answered = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in answered.split(b"\r\n")[0], answered + await reader.read()
        yield Viewer(reader)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
