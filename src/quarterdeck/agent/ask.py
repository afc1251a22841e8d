"""How a machine of the fleet asks a server over HTTP: whom it trusts there, by which proxy.

A pinned certificate (PEM) counts under any name; a file that the operator gives is one of
authorities, whose certificates count for the names in them; `system` is the machine's own.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping

import msgspec

from quarterdeck.errors import Denied, Invalid, QuarterdeckError, Unavailable, error_for_status
from quarterdeck.fabric.proxy import Way
from quarterdeck.fabric.trust import fetch, trusting, untrusted, verifying

TIMEOUT_S = 15.0
ANSWER_LIMIT = 1 << 20
MAX_ASKED_S = 300


class Asker:
    """`server_ca` as of the settings; `proxies` is what the environment says of them."""

    def __init__(self, server_ca: str = "", proxies: Mapping[str, str] | None = None) -> None:
        self.server_ca = server_ca
        self._proxies = proxies or {}

    def fetch(self, server: str, fingerprint: str) -> str:
        """The certificate with this fingerprint. Raises Denied, Invalid, Unavailable."""
        return fetch(server, fingerprint, timeout_s=TIMEOUT_S, proxies=self._proxies)

    def tls(self, pinned: str) -> ssl.SSLContext | None:
        """What verifies the server; None: the machine's own authorities. Raises Invalid."""
        if self.server_ca and self.server_ca != "system":
            return verifying(self.server_ca)
        return trusting(pinned) if pinned and not self.server_ca else None

    def post(self, server: str, path: str, body: msgspec.Struct, pinned: str) -> bytes:
        """The answer to a JSON body. Raises Denied, Invalid, Unavailable, what the server says."""
        if not server.startswith(("http://", "https://")):
            raise Invalid(
                "server_url",
                f"{server!r} is not the URL of a server: write http://HOST:PORT or https://HOST:PORT.",
            )
        way = Way(server, self._proxies)
        context = self.tls(pinned) if server.startswith("https:") else None
        target = way.target(urllib.parse.urlsplit(server).path.rstrip("/") + path)
        headers = {"Content-Type": "application/json", **way.headers}
        connection = way.connection(TIMEOUT_S, context)
        try:
            connection.request("POST", target, msgspec.json.encode(body), headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_LIMIT)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if untrusted(error):
                raise _untrusted(server, pinned, error) from error
            raise Unavailable(
                "server",
                f"The server at {server} can't be reached{way.through()}: {error}. Check the "
                "address, that the server runs, and what stands between.",
            ) from error
        finally:
            connection.close()
        if answer.status == 407:
            raise Unavailable("proxy", way.refusal(answer.status))
        if not 200 <= answer.status < 300:
            raise _refusal(answer.status, data, answer.headers.get("Retry-After", ""))
        return bytes(data)


def host_of(url: str) -> str:
    """The host in the URL of a server. Raises Invalid."""
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError as error:
        raise Invalid(
            "server_url",
            f"{url!r} is not the URL of a server ({error}): write http://HOST:PORT or https://HOST:PORT.",
        ) from error


def websockets(server: str, urls: tuple[str, ...]) -> tuple[str, ...]:
    """Where a server's answer says that the fabric's WebSocket is; what lies below its own address
    has that address."""
    scheme, _, rest = server.rstrip("/").partition("://")
    near = f"{'wss' if scheme == 'https' else 'ws'}://{rest}"
    return tuple(near + url if url.startswith("/") else url for url in urls)


def _untrusted(url: str, pinned: str, error: Exception) -> QuarterdeckError:
    if not pinned:
        return Denied(
            "certificate",
            f"The certificate of {url} is not to be trusted ({error}): use a token that carries "
            "its fingerprint, or name who vouches for it: --server-ca FILE.",
        )
    # Perhaps only for a moment, so an agent that works goes on with the pass it has.
    return Unavailable(
        "wrong_certificate",
        f"The server at {url} does not show the certificate that was pinned here with the first "
        "token: either another machine answers there, or the server got new keys; nothing was "
        "sent. In the second case start this once with a new token.",
    )


def asked_to_wait_s(error: QuarterdeckError) -> float:
    """How long the server wants to be left alone; 0 when it does not say."""
    found = error.detail.get("retry_after_s")
    return float(found) if isinstance(found, int) else 0.0


def _refusal(status: int, body: bytes, after: str) -> QuarterdeckError:
    try:
        problem = json.loads(body)
        text, code = str(problem["detail"]), str(problem["code"])
    except (ValueError, KeyError, TypeError):
        text, code = (
            f"The server answered {status} to the enrolment, and not as quarterdeck does: check "
            "the URL, and what stands before the server.",
            "enrol",
        )
    wait = {"retry_after_s": min(int(after), MAX_ASKED_S)} if after.isdecimal() else {}
    return error_for_status(status)(code, text, **wait)
