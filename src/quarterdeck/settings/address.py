"""Addresses in settings: where to listen, whom to trust."""

from __future__ import annotations

import ipaddress

from quarterdeck.errors import Invalid


def split_listen(listen: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[V6]:PORT`. Raises Invalid."""
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise Invalid("listen", f"{listen!r} is not an address to listen on: write HOST:PORT.")
    return host.strip("[]") or "0.0.0.0", int(port)


def join_listen(host: str, port: int) -> str:
    """`HOST:PORT` or `[V6]:PORT`: what `split_listen` takes apart, and the place in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def proxies(text: str) -> tuple[str, ...]:
    """The addresses and networks in `trusted_proxies`. Raises Invalid."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    try:
        return tuple(str(ipaddress.ip_network(word)) for word in found)
    except ValueError as error:
        said = f"trusted_proxies holds what is no address or network ({error})"
        raise Invalid("settings", f"{said}: write 10.0.0.7, 10.1.0.0/16, with commas.") from error


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    return host in ("0.0.0.0", "::")


def reachable_host(host: str) -> str:
    """Where this machine reaches what listens on `host`: a wildcard by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
