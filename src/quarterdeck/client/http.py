"""The API for programs, over plain HTTP connections of the standard library.

Errors of the server come back as the classes of `quarterdeck.errors`; a server that can't be
reached is `Unavailable` with code `no_server`. A server that is starting is asked again for a
while, as nothing of the call was done.
"""

from __future__ import annotations

import http.client
import json
import select
import ssl
import struct
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from quarterdeck.core.access import split
from quarterdeck.errors import Denied, Invalid, Unavailable, error_for_status
from quarterdeck.fabric.proxy import Way
from quarterdeck.fabric.trust import fetch, trusting, untrusted, wrong
from quarterdeck.settings.environment import proxy_variables

TIMEOUT_S = 70.0
STREAM_TIMEOUT_S = 40.0
PATIENCE_S = 15.0
TRUST_TIMEOUT_S = 10.0
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
LOOK_AGAIN_S = 0.25
PIECE = 1 << 20
SERVER_SENT = "text/event-stream"
PACKED = "application/vnd.quarterdeck.events"
LENGTHS = struct.Struct(">II")


class Connection:
    """One address and token. A call leaves its connection to the next one; a stream closes its own.

    `fingerprint` (or that of the token) is of the certificate that the server must show; without
    one it is verified as everywhere. `patience_s`: how long a server that is starting is asked
    again; `timeout_s`: how long a call may say nothing. `namespace` goes along with every call.
    """

    namespace: str | None = None

    def __init__(
        self,
        url: str,
        token: str,
        *,
        fingerprint: str = "",
        patience_s: float = PATIENCE_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise Invalid(
                "url",
                f"{url!r} is not the URL of a server ({error}): write http://HOST:PORT or https://HOST:PORT.",
            ) from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(
                "url",
                f"{url!r} is not the URL of a server: write http://HOST:PORT or https://HOST:PORT.",
            )
        if not (url.isascii() and url.isprintable()):
            raise Invalid(
                "url",
                f"{url!r} holds characters that no URL has: write http://HOST:PORT or https://HOST:PORT.",
            )
        if not (token.isascii() and token.isprintable()):
            raise Denied(
                "bad_token",
                "The token holds characters that no token has: copy it again, as `qd token create` "
                "printed it.",
            )
        self.url = url.rstrip("/")
        self._parts = parts
        self._token, pinned = split(token)
        self._fingerprint = fingerprint.lower().replace(":", "") or pinned
        if self._fingerprint and parts.scheme != "https":
            raise Invalid(
                "no_tls",
                f"The fingerprint names a certificate, but {url} is no https address: write "
                "https:// there, or leave the fingerprint out.",
            )
        self._way = Way(self.url, proxy_variables())
        self._context: ssl.SSLContext | None = None
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._idle: list[http.client.HTTPConnection] = []

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection that waits for the next call; a later call opens one again."""
        idle = getattr(self, "_idle", [])
        while idle:
            idle.pop().close()

    def get(self, path: str, **query: str | int | None) -> Any:
        """The decoded answer."""
        return self._call("GET", path, None, query, {})

    def post(
        self,
        path: str,
        body: object | None = None,
        headers: Mapping[str, str] | None = None,
        **query: str | int | None,
    ) -> Any:
        """The decoded answer."""
        return self._call("POST", path, body, query, headers or {})

    def delete(self, path: str) -> Any:
        """The decoded answer."""
        return self._call("DELETE", path, None, {}, {})

    def hasty(self, timeout_s: float) -> Connection:
        """Another one to the same server, for calls that must be over in time."""
        other = Connection(
            self.url,
            self._token,
            fingerprint=self._fingerprint,
            patience_s=0.0,
            timeout_s=timeout_s,
        )
        other.namespace = self.namespace
        return other

    def stream(self, path: str, **query: str | int | None) -> Iterator[bytes]:
        """The bytes of an answer, piece by piece. Raises Unavailable when it is cut short."""
        connection, answer = self._open("GET", path, None, query, {}, TIMEOUT_S)
        expected = answer.headers.get("Content-Length")
        received = 0
        try:
            while piece := answer.read1(PIECE):
                received += len(piece)
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()
        if expected is not None and received != int(expected):
            raise Unavailable(
                "cut_short",
                f"The server sent {received} of {expected} bytes: the rest lies on a node that "
                "does not answer now. Try again later.",
            )

    def events(
        self, path: str, last_id: str | None, *, raw: bool = False, **query: str | None
    ) -> Iterator[Event]:
        """Server-sent events until the server ends the stream or the connection breaks.

        `raw`: output comes as bytes under `raw`, which is cheaper than text in JSON.

        Raises Unavailable when it breaks; reconnect with the id of the last event.
        """
        headers = {"Accept": f"{PACKED}, {SERVER_SENT};q=0.5" if raw else SERVER_SENT}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        connection, answer = self._open("GET", path, None, query, headers, STREAM_TIMEOUT_S)
        try:
            packed = answer.headers.get_content_type() == PACKED
            yield from (_unpack(answer) if packed else _parse(answer))
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def _call(
        self,
        method: str,
        path: str,
        body: object | None,
        query: Mapping[str, str | int | None],
        headers: Mapping[str, str],
    ) -> Any:
        connection, answer = self._open(method, path, body, query, headers, self._timeout_s)
        try:
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise self._gone(error) from error
        if connection.sock is not None:  # else the server will have no further call on it
            self._idle.append(connection)
        return found

    def _open(
        self,
        method: str,
        path: str,
        body: object | None,
        query: Mapping[str, str | int | None],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        asked = {"namespace": self.namespace, **query}
        given = {key: value for key, value in asked.items() if value is not None}
        target = self._parts.path.rstrip("/") + path
        if given:
            target += "?" + urllib.parse.urlencode(given)
        sent = {"Authorization": f"Bearer {self._token}", **self._way.headers, **headers}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._ask(method, target, data, sent, timeout_s)
            except Unavailable as error:
                if error.code != "starting" or time.monotonic() > until:
                    raise
            time.sleep(LOOK_AGAIN_S)

    def _ask(
        self, method: str, target: str, data: bytes | None, sent: dict[str, str], timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection(timeout_s)
        try:
            connection.request(method, self._way.target(target), data, sent)
            answer = connection.getresponse()
            problem = answer.read() if answer.status >= 400 else b""
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._gone(error) from error
        if answer.status >= 400:
            connection.close()
            raise _error(answer.status, problem)
        return connection, answer

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        while self._idle:
            kept = self._idle.pop()
            look = select.poll()
            look.register(kept.sock, select.POLLIN)
            if not look.poll(0):  # what can be read without a question is the connection's end
                kept.sock.settimeout(timeout_s)
                return kept
            kept.close()
        if self._context is None and self._parts.scheme == "https":
            self._context = self._trust()
        return self._way.connection(timeout_s, self._context)

    def _trust(self) -> ssl.SSLContext:
        if not self._fingerprint:
            return ssl.create_default_context()
        proxies = proxy_variables()
        return trusting(
            fetch(self.url, self._fingerprint, timeout_s=TRUST_TIMEOUT_S, proxies=proxies)
        )

    def _gone(self, error: Exception) -> Unavailable | Denied:
        if untrusted(error):
            return wrong(self.url) if self._fingerprint else _unknown_signer(self.url, error)
        if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
            plain = self.url.replace("https:", "http:", 1)
            return Unavailable("no_tls", f"What answers at {self.url} speaks no TLS: try {plain}.")
        refused = isinstance(error, ConnectionRefusedError)
        code = "no_server" if refused else "connection_lost"
        what = "Nothing answers" if refused else "The connection broke"
        where = f"{self.url}{self._way.through()}"
        why = error.strerror or error if isinstance(error, OSError) else error
        return Unavailable(code, f"{what} at {where} ({why}); is the server running?")


def _unknown_signer(url: str, error: Exception) -> Denied:
    return Denied(
        "certificate",
        f"The certificate of {url} is not to be trusted ({error}): give QD_FINGERPRINT, or use a "
        "token that carries it.",
    )


class Event:
    """One server-sent event: its id (or None) and its decoded data."""

    __slots__ = ("data", "id")

    def __init__(self, id: str | None, data: dict[str, Any]) -> None:
        self.id = id
        self.data = data


def quote(word: str) -> str:
    """A word of a user as a segment of a path. Raises Invalid for an empty one."""
    if not word:
        raise Invalid("empty", "An empty word names nothing: give an id, or `last`.")
    return urllib.parse.quote(word, safe="", errors="replace")


def _unpack(answer: http.client.HTTPResponse) -> Iterator[Event]:
    while lengths := answer.read(LENGTHS.size):
        head_length, output_length = LENGTHS.unpack(lengths)
        if not head_length:
            continue
        packet = json.loads(_whole(answer, head_length))
        event: dict[str, Any] = packet["event"]
        if event["type"] == "output":
            event["raw"] = _whole(answer, output_length)
        yield Event(packet["id"], event)


def _whole(answer: http.client.HTTPResponse, length: int) -> bytes:
    data = answer.read(length)
    if len(data) < length:
        raise http.client.IncompleteRead(data, length - len(data))
    return data


def _parse(answer: http.client.HTTPResponse) -> Iterator[Event]:
    id: str | None = None
    data: list[bytes] = []
    while line := answer.readline():
        line = line.rstrip(b"\r\n")
        if not line:
            if data:
                yield Event(id, json.loads(b"\n".join(data)))
                id, data = None, []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"id":
            id = value.decode()


def _error(status: int, body: bytes) -> Exception:
    kind = error_for_status(status)
    try:
        problem = json.loads(body)
        if isinstance(health := problem.get("problem"), str):  # what /readyz answers
            return kind(str(problem["status"]), health)
        where = {"position": at} if isinstance(at := problem.get("position"), int) else {}
        return kind(str(problem["code"]), str(problem["detail"]), **where)
    except (ValueError, KeyError, TypeError, AttributeError):
        return kind(
            "http",
            f"The server answered {status}, and not as quarterdeck does: check the URL, and what "
            "stands before the server.",
        )
