"""What the client says of a server that it can't talk to: sentences, not numbers."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from quarterdeck.client.http import Connection
from quarterdeck.errors import Unavailable


@pytest.fixture
def plain() -> Iterator[int]:
    """The port of a server without TLS."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def said(url: str) -> str:
    with pytest.raises(Unavailable) as told:
        Connection(url, "t").get("/v1/nodes")
    return told.value.message


def test_tls_to_a_server_that_has_none_names_the_url_to_try(plain: int) -> None:
    text = said(f"https://127.0.0.1:{plain}")
    assert "speaks no TLS" in text and f"try http://127.0.0.1:{plain}" in text


def test_where_nobody_listens_the_reason_has_no_number() -> None:
    with socket.socket() as held:  # bound, so that nobody else listens there
        held.bind(("127.0.0.1", 0))
        text = said(f"http://127.0.0.1:{held.getsockname()[1]}")
    assert "Connection refused" in text and "Errno" not in text and "running?" in text
