"""Which proxy leads to an address, and how to talk to it. Standard library only.

The usual variables (settings.py reads them): `HTTPS_PROXY` for https and wss, `HTTP_PROXY` for http
and ws, `ALL_PROXY` for both, `NO_PROXY` for whom to reach straight; lower case counts first. This
machine itself is always reached straight. What is secret in a proxy's address is never shown.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import ssl
import urllib.parse
from collections.abc import Mapping

from quarterdeck.errors import Invalid

_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}
_KIND = {"https": "https_proxy", "wss": "https_proxy", "http": "http_proxy", "ws": "http_proxy"}


def default_port(scheme: str) -> int:
    """The port that an address without one means."""
    return _PORTS.get(scheme, 443)


class Proxy:
    """An HTTP proxy; as text it is HOST:PORT."""

    def __init__(self, host: str, port: int, login: str = "") -> None:
        """`login` is `user:password`, or empty."""
        self.host = host
        self.port = port
        self._login = login

    def __repr__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy wants to know of us."""
        if not self._login:
            return {}
        word = base64.b64encode(self._login.encode()).decode()
        return {"Proxy-Authorization": f"Basic {word}"}

    def connect_request(self, host: str, port: int) -> bytes:
        """The words that ask it for a tunnel."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def as_config(self) -> dict[str, str]:
        """What nats-server's configuration wants to know."""
        user, _, password = self._login.partition(":")
        login = {"username": user, "password": password} if self._login else {}
        return {"url": f"http://{self}", **login}

    def refusal(self, status: int, place: str) -> str:
        """Why it gave no tunnel, as a sentence."""
        if status == 407:
            return (
                f"The proxy {self} wants a user and a password that it knows: write them into "
                "HTTPS_PROXY, http://USER:PASSWORD@HOST:PORT."
            )
        said = f"answered {status}" if status else "did not answer as a proxy"
        return (
            f"The proxy {self} does not lead to {place} (it {said}): let it, or name the host in "
            "NO_PROXY."
        )


def proxy_for(url: str, variables: Mapping[str, str]) -> Proxy | None:
    """The proxy that leads to `url`, None for straight. `variables` have lower-case names.

    Raises Invalid for a proxy that can't be used.
    """
    parts = urllib.parse.urlsplit(url)
    host = (parts.hostname or "").lower()
    given = variables.get(_KIND.get(parts.scheme, ""), "") or variables.get("all_proxy", "")
    port = parts.port or default_port(parts.scheme)
    if not given or not host or _straight(host, port, variables.get("no_proxy", "")):
        return None
    return parse(given)


def parse(given: str) -> Proxy:
    """`http://USER:PASSWORD@HOST:PORT`, also without scheme. Raises Invalid, without the secret."""
    try:
        parts = urllib.parse.urlsplit(given if "://" in given else f"http://{given}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        parts, host, port = urllib.parse.urlsplit(""), "", 0
    if parts.scheme != "http" or not host or not host.isprintable() or not host.isascii():
        raise Invalid(
            "proxy",
            "The proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY can't be used: write "
            "http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT.",
        )
    login = ""
    if parts.username is not None:
        user, password = parts.username, parts.password or ""
        login = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    return Proxy(host, port, login)


def _straight(host: str, port: int, exceptions: str) -> bool:
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    if address is not None and (address.is_loopback or address.is_unspecified):
        return True
    return any(
        _matches(word.strip().lower(), host, port, address)
        for word in exceptions.split(",")
        if word.strip()
    )


def _matches(
    word: str,
    host: str,
    port: int,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> bool:
    if word == "*":
        return True
    name, colon, wanted = word.rpartition(":")
    if colon and wanted.isdigit() and (":" not in name or name.endswith("]")):
        if int(wanted) != port:
            return False
        word = name
    word = word.strip("[]")
    if address is not None:
        try:
            return address in ipaddress.ip_network(word, strict=False)
        except (ValueError, TypeError):
            return False
    word = word.removeprefix("*").removeprefix(".")
    return bool(word) and (host == word or host.endswith("." + word))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class Way:
    """How to ask the server at `url`: `connection` is new each time, `target` is what goes into the
    request line for a path, `headers` go along."""

    def __init__(self, url: str, variables: Mapping[str, str]) -> None:
        """Raises Invalid for a proxy that can't be used."""
        self._parts = urllib.parse.urlsplit(url)
        self.proxy = proxy_for(url, variables)
        self._plain = self._parts.scheme == "http"
        self.headers: dict[str, str] = {}
        if self.proxy is not None and self._plain:
            self.headers = self.proxy.headers

    def connection(
        self, timeout_s: float, context: ssl.SSLContext | None
    ) -> http.client.HTTPConnection:
        """Not yet connected; `context` is for https."""
        host, port = self._parts.hostname or "", self._parts.port
        proxy = self.proxy
        if self._plain:
            if proxy is not None:
                host, port = proxy.host, proxy.port
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        tunnelled = http.client.HTTPSConnection(
            proxy.host, proxy.port, timeout=timeout_s, context=context
        )
        tunnelled.set_tunnel(host, port or default_port("https"), proxy.headers)
        return tunnelled

    def target(self, path: str) -> str:
        """`path`, or the whole address when a proxy has to find the way."""
        if self.proxy is None or not self._plain:
            return path
        return f"http://{self._parts.netloc.rpartition('@')[2]}{path}"

    def refusal(self, status: int) -> str:
        """Why a proxy on the way did not serve, as a sentence."""
        place = self._parts.netloc.rpartition("@")[2]
        if self.proxy is None:
            return f"Something on the way to {place} answered {status}."
        return self.proxy.refusal(status, place)

    def through(self) -> str:
        """` through the proxy HOST:PORT`, for sentences; empty when straight."""
        return f" through the proxy {self.proxy}" if self.proxy is not None else ""
