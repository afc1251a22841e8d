"""Two servers on PostgreSQL: a token revoked on one, or expired, ends its uploads on both."""

from __future__ import annotations

import socket
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.up import wait_for
from tests.faults.fleet import API, Fleet, fleet

WITHIN_S = 3.0  # 1 s on machines that have nothing else to do


def made(servers: Fleet, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(
        "a token", lambda: servers.ask("s0", "/v1/tokens", {"kind": "send", **body})
    )
    return found


class Upload:
    """Somebody who sends lines for as long as they are taken."""

    def __init__(self, url: str, token: str, name: str) -> None:
        place = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port), timeout=20)
        head = f"PUT /v1/trace/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        self.socket.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nline\n\r\n".encode())

    def answer(self) -> str:
        """What the server says when it ends this."""
        with self.socket:
            told = b""
            while piece := self._piece():
                told += piece
        return told.decode()

    def _piece(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""


def state(servers: Fleet, name: str) -> str | None:
    found = servers.ask("s0", f"/v1/traces?name={name}")
    return found["items"][0]["state"] if found and found["items"] else None


def test_an_upload_ends_when_its_token_is_revoked_on_another_server_or_expires(
    tmp_path: Path,
) -> None:
    with fleet(tmp_path / "fleet", servers=2, agents=0) as servers:
        kept, short = made(servers), made(servers, expires_s=4)
        revoked = Upload(servers.urls["s1"], kept["token"], "revoked")
        expired = Upload(servers.urls["s1"], short["token"], "expired")
        for name in ("revoked", "expired"):
            wait_for(f"trace {name}", lambda name=name: state(servers, name) == "open")  # type: ignore[misc]
        url = f"{servers.urls['s0']}/v1/tokens/{kept['id']}"
        headers = {"Authorization": f"Bearer {API}"}
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers, method="DELETE"), timeout=20
        ):
            began = time.monotonic()
        for upload in (revoked, expired):
            told = upload.answer()
            assert told.startswith("HTTP/1.1 403") and "token_revoked" in told
            if upload is revoked:
                assert time.monotonic() - began < WITHIN_S
        again = Upload(servers.urls["s1"], kept["token"], "revoked").answer()
        assert again.startswith("HTTP/1.1 403") and "was revoked" in again
