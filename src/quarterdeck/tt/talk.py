"""HTTP with the server over one connection, written out: the library's own costs a tenth of a
second to import, and a sender has to be quick.

`Away` is what may be better later, `Refused` what will not; both carry a sentence.
"""

from __future__ import annotations

import os

from quarterdeck.tt.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    from typing import Any

    from quarterdeck.tt.place import Place
else:
    import _socket as socket  # without the enums and selectors of `socket`

_CONNECT_S = 5.0
_ANSWER_S = 15.0
_MOST_ANSWER = 1 << 20
_MOST_LINES = 200
_END = "-----END CERTIFICATE-----"


class Away(Exception):
    """The server can't be reached, does not answer, or asks to come later."""


class Refused(Exception):
    """The server does not want what we send, or is none of ours."""


class Forgotten(Exception):
    """The server does not know the trace (any more): begin again."""


class Link:
    """A connection to the server of a place, made at once. Raises Away and Refused."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._scheme, self._host, self._port, self._path = _parts(place.url)
        self._proxy = _proxy(self._scheme, self._host, self._port)
        self._file: Incoming | None = None
        try:
            place.token.encode("ascii")
        except ValueError as error:
            raise Refused("the token holds characters that no token has: copy it again.") from error
        if place.fingerprint and self._scheme != "https":
            raise Refused(f"the token names a certificate, but {place.url} is no https address.")
        self._socket = self._connect()

    def secure(self) -> None:
        """Once connected: TLS, where the address wants it."""
        if self._scheme == "https":
            self._socket = self._wrap(_context(self._place))
        self._file = Incoming(self._socket)

    def close(self) -> None:
        """It is not used again."""
        self._socket.close()

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """(status, decoded answer). Raises Away when the connection breaks."""
        target = self._path + path
        lines = [f"Host: {self._authority()}", f"Content-Length: {len(body)}"]
        if self._place.token:
            lines.append(f"Authorization: Bearer {self._place.token}")
        if self._proxy is not None and self._scheme == "http":
            target = f"http://{self._authority()}{target}"
            lines += _proxy_lines(self._proxy)
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = f"{method} {target} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
        try:
            self._socket.settimeout(_ANSWER_S)
            self._socket.sendall(head.encode("latin-1", "replace") + body)
            status, found = self._answer()
        except (OSError, ValueError) as error:
            raise Away(_why(error)) from error
        if status == 407:
            raise Away(_proxy_answer("407"))
        return status, found

    def _answer(self) -> tuple[int, dict[str, Any]]:
        assert self._file is not None
        status, headers = _head(self._file)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            data = _chunks(self._file)
        else:
            count = int(headers.get("content-length", "0"))
            data = self._file.read(min(count, _MOST_ANSWER))
            if len(data) < count:
                raise ValueError("the answer was cut short")
        if headers.get("connection", "").lower() == "close":
            self._socket.close()  # the next call finds it broken and makes another
        return status, decode(data)

    def _authority(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        default = 443 if self._scheme == "https" else 80
        return host if self._port == default else f"{host}:{self._port}"

    def _connect(self) -> socket.socket:
        host, port = (self._host, self._port) if self._proxy is None else self._proxy[:2]
        try:
            found = _connected(host, port)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy is not None and self._scheme == "https":
                _tunnel(found, self._host, self._port, self._proxy)
        except (OSError, ValueError) as error:
            way = "" if self._proxy is None else f"through the proxy {host}:{port}: "
            raise Away(way + _why(error)) from error
        return found

    def _wrap(self, context: ssl.SSLContext) -> socket.socket:
        import socket as whole
        import ssl

        try:
            plain = whole.socket(fileno=self._socket.detach())
            plain.settimeout(_CONNECT_S)
            return context.wrap_socket(plain, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"the certificate of {self._place.url} is not the one to trust "
                f"({error.verify_message}): use a token that carries its fingerprint."
            ) from error
        except OSError as error:
            raise Away(_why(error)) from error


def open_link(place: Place) -> Link:
    """A link that is ready for questions. Raises Away and Refused."""
    link = Link(place)
    try:
        link.secure()
    except BaseException:
        link.close()
        raise
    return link


def _parts(url: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, path) of an address. Raises Refused."""
    scheme, found, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    host, port = place, ""
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        port = port[1:]
    elif ":" in place:
        host, _, port = place.partition(":")
    good = url.isascii() and url.isprintable() and "@" not in place and " " not in url
    if scheme not in ("http", "https") or not found or not host or not good:
        raise Refused(
            f"{url!r} is not the URL of a server: write http://HOST:PORT or https://HOST."
        )
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise Refused(f"{url!r} has no port that exists: write http://HOST:PORT.")
    return scheme, host, int(port or (443 if scheme == "https" else 80)), (slash + path).rstrip("/")


class Incoming:
    """What comes in over a connection, by lines and by lengths."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._held = b""

    def readline(self, limit: int) -> bytes:
        """With its end; without one when there is none within the limit, or no more."""
        while b"\n" not in self._held and len(self._held) < limit and self._more():
            pass
        found, end, self._held = self._held.partition(b"\n")
        return found + end

    def read(self, count: int) -> bytes:
        """Fewer at the end."""
        while len(self._held) < count and self._more():
            pass
        found, self._held = self._held[:count], self._held[count:]
        return found

    def _more(self) -> bool:
        piece = self._link.recv(65536)
        self._held += piece
        return bool(piece)


def _connected(host: str, port: int) -> socket.socket:
    """To the first of a host's addresses that answers. Raises OSError."""
    fault = OSError(f"{host} has no address")
    for family, kind, number, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        link = socket.socket(family, kind, number)
        try:
            link.settimeout(_CONNECT_S)
            link.connect(address)
            return link
        except OSError as error:
            link.close()
            fault = error
    raise fault


def _head(file: Incoming) -> tuple[int, dict[str, str]]:
    line = file.readline(65536)
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection was closed")
    status = int(line.split()[1]) if line.startswith(b"HTTP/1.") else 0
    headers: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = file.readline(65536).rstrip(b"\r\n")
        if not line:
            break
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if status == 100:
        return _head(file)
    return status, headers


def _chunks(file: Incoming) -> bytes:
    data = b""
    while True:
        size = int(file.readline(65536).split(b";")[0], 16)
        if len(data) + size > _MOST_ANSWER:
            raise ValueError("the answer is too long")
        if size == 0:
            while file.readline(65536).rstrip(b"\r\n"):
                pass
            return data
        data += file.read(size)
        file.readline(65536)


def _why(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "it does not answer"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _context(place: Place) -> ssl.SSLContext:
    """Trust in the one pinned certificate, or as everywhere. Raises Away and Refused."""
    import ssl

    if not place.fingerprint:
        return ssl.create_default_context()
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE  # what comes is compared with the fingerprint
    probe = Link(_without_secrets(place))
    try:
        probe._socket = probe._wrap(nobody)
        probe._file = Incoming(probe._socket)
        status, found = probe.ask("GET", "/v1/certificate", b"", {})
    finally:
        probe.close()
    pem = str(found.get("pem", "")) if status == 200 else ""
    if _fingerprint(pem) != place.fingerprint:
        raise Refused(
            f"the server at {place.url} does not show the certificate that the token names: "
            "another machine answers there, or it got new keys; nothing was sent. Ask for a new "
            "token."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it signs for nobody but this installation
    context.verify_flags |= 0x80000  # X509_V_FLAG_PARTIAL_CHAIN, which has no name before 3.10
    context.load_verify_locations(cadata=pem)
    return context


def _without_secrets(place: Place) -> Place:
    from quarterdeck.tt.place import Place

    return Place(place.url, "")


def _fingerprint(pem: str) -> str:
    import hashlib
    import ssl

    try:
        begin = pem.index("-----BEGIN CERTIFICATE-----")
        end = pem.index(_END, begin) + len(_END)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[begin:end])).hexdigest()
    except ValueError:
        return ""


# ---- proxies: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY as elsewhere; this machine is straight


def _proxy(scheme: str, host: str, port: int) -> tuple[str, int, str] | None:
    """(host, port, user:password) of the proxy that leads to an address. Raises Refused."""
    given = _variable(scheme + "_proxy") or _variable("all_proxy")
    lowered = host.lower()
    local = lowered in ("localhost", "::1") or lowered.startswith("127.")
    if not given or local or _excepted(lowered, port):
        return None
    rest = given.partition("://")[2] or given
    login, _, place = rest.rstrip("/").rpartition("@")
    try:
        _, proxy_host, proxy_port, _ = _parts("http://" + place)
    except Refused as error:
        raise Refused(
            "the proxy in the environment can't be used: write http://HOST:PORT."
        ) from error
    return proxy_host, proxy_port, login


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def _excepted(host: str, port: int) -> bool:
    words = [word.strip() for word in _variable("no_proxy").lower().split(",")]
    return any(_names(word, host, port) for word in words if word)


def _names(word: str, host: str, port: int) -> bool:
    place = word.rpartition(":")[0] if word.endswith(f":{port}") else word
    if place == "*" or ("/" in place and _in_network(host, place)):
        return True
    ending = place.lstrip("*").lstrip(".").strip("[]")
    return bool(ending) and (host == ending or host.endswith("." + ending))


def _in_network(host: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except (ValueError, TypeError):
        return False


def _proxy_lines(proxy: tuple[str, int, str]) -> list[str]:
    if not proxy[2]:
        return []
    import base64
    from urllib.parse import unquote

    word = base64.b64encode(unquote(proxy[2]).encode()).decode()
    return [f"Proxy-Authorization: Basic {word}"]


def _tunnel(sock: socket.socket, host: str, port: int, proxy: tuple[str, int, str]) -> None:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", *_proxy_lines(proxy)]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(1)  # not a byte of what follows
        if not piece or len(data) > 65536:
            raise ValueError("the proxy closed the connection")
        data += piece
    status = data.split()[1:2]
    if status != [b"200"]:
        raise ValueError(_proxy_answer(status[0].decode("latin-1") if status else "nothing"))


def _proxy_answer(status: str) -> str:
    if status == "407":
        return "the proxy wants a user and a password: write http://USER:PASSWORD@HOST:PORT"
    return f"the proxy answered {status}"
