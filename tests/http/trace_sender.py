"""A sender of traces driven by hand: what `tt` says over HTTP, without a command."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
from collections.abc import Sequence
from typing import Any

from quarterdeck.core.trace import Frame
from quarterdeck.wire.trace import encode_frame
from tests.http.http_host import API, Answer

NOW_US = 1_790_000_000_000_000


class Sender:
    """One trace, begun with `begin`; every call is a connection of its own."""

    def __init__(self, port: int, name: str = "deploy", *, token: str = API, **begin: Any) -> None:
        self.port = port
        self.token = token
        self.key = secrets.token_hex(16)
        self.trace = ""
        self.sent = {"stdout": 0, "stderr": 0}
        self._time_us = NOW_US
        self._begin = {"name": name, "id": "web-1", "key": self.key, **begin}

    async def begin(self) -> Answer:
        answer = await self.ask("POST", "/v1/traces", json.dumps(self._begin).encode())
        if answer.status in (200, 201):
            self.trace = answer.json["trace"]
        return answer

    async def say(self, data: bytes, stream: str = "stdout") -> Answer:
        """The next bytes of a stream."""
        self._time_us += 1000
        frame = Frame(stream, self.sent[stream], self._time_us, data)
        answer = await self.frames([frame])
        self.sent[stream] += len(data)
        return answer

    async def frames(self, frames: Sequence[Frame]) -> Answer:
        return await self.segments(b"".join(map(encode_frame, frames)))

    async def segments(self, body: bytes) -> Answer:
        return await self.ask("POST", f"/v1/traces/{self.trace}/segments", body)

    async def end(self, **how: Any) -> Answer:
        body = json.dumps(how).encode()
        return await self.ask("POST", f"/v1/traces/{self.trace}/end", body)

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        kind = "application/octet-stream" if path.endswith("/segments") else "application/json"
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": kind,
            "Trace-Key": self.key,
        }
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            fields = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read())
        finally:
            connection.close()
