"""Where HTTP listens: sockets and the URL they are reached under. Light: `qd up` imports it."""

from __future__ import annotations

import errno
import socket

from quarterdeck.errors import Conflict
from quarterdeck.settings import is_wildcard, join_listen, reachable_host, split_listen


def bind(listen: str) -> socket.socket:
    """A listening socket. Raises Conflict when the port is in use, or may not be used."""
    host, port = split_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named, and what is accepted has
    # that of the listener: without it each answer on a used connection waits 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            text = f"Port {port} on {host} is in use by another program: choose another --listen."
        else:
            text = f"Can't listen on {listen}: {error.strerror or error}."
        raise Conflict("port_in_use", text) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, host: str, *, tls: bool = False) -> str:
    """The URL for a browser on this machine; a wildcard address is reached by loopback."""
    place = join_listen(reachable_host(host), listener.getsockname()[1])
    return f"{'https' if tls else 'http'}://{place}"


def url_for_others(listener: socket.socket, host: str, *, tls: bool) -> str:
    """The URL for other machines, as far as it can be known here: a wildcard address is reached
    under the machine's name."""
    known = socket.gethostname() if is_wildcard(host) else host
    return url_of(listener, known, tls=tls)
