"""Agentless nodes: machines that a node of the fleet reaches over SSH, as people ordered them."""

from __future__ import annotations

import re
from datetime import datetime

from quarterdeck.core.model import Record
from quarterdeck.errors import Invalid

SSH_PORT = 22
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}")
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f:.]{2,45}")
KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]{40,2000}={0,2}")


class Place(Record, frozen=True, kw_only=True):
    """Where an SSH server is, and who logs in there."""

    user: str
    host: str
    port: int = SSH_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"


class Agentless(Record, frozen=True, kw_only=True):
    """What was ordered. `via` is the node that reaches it, `node` its own id once it has one.

    `identity` is a path on `via`; a host key is a fingerprint (`SHA256:...`) or a public key;
    without one the first key that is offered is pinned when `accept_new` says so.
    """

    id: str
    via: str
    name: str
    place: str
    created_at: datetime
    created_by: str
    identity: str = ""
    host_key: str = ""
    jump: str = ""
    jump_key: str = ""
    accept_new: bool = False
    node: str | None = None


def place(text: str) -> Place:
    """Read `user@host[:port]` or `user@[v6]:port`. Raises Invalid."""
    user, at, rest = text.rpartition("@")
    host, port = rest, str(SSH_PORT)
    if found := re.fullmatch(r"\[([^]]+)\](?::(\d+))?", rest):
        host, port = found[1], found[2] or port
    elif rest.count(":") == 1:
        host, port = rest.split(":")
    good = at and USER.fullmatch(user) and HOST.fullmatch(host)
    if not good or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Invalid(
            "ssh_place",
            f"{text[:200]!r} is no place to log in at: write user@host or user@host:port.",
        )
    return Place(user=user, host=host, port=int(port))


def check_key(text: str) -> str:
    """A host key as people give it, without its comment. Raises Invalid."""
    words = " ".join(text.split()[:2])
    if KEY.fullmatch(words) is None:
        raise Invalid(
            "host_key",
            f"{text[:80]!r} is no host key: give its fingerprint (SHA256:..., as `ssh-keygen -lf "
            "/etc/ssh/ssh_host_ed25519_key.pub` prints it on that host) or the public key itself.",
        )
    return words
