"""The way to a host: asyncssh, keys that are pinned, errors that say what to do.

Each host has a `known_hosts` of its own (one line per pinned key, in the format of OpenSSH). A key
gets there by an explicit order only: as the key or fingerprint that was ordered, or as the first
one that is offered where `accept_new` was ordered. Any other key ends the connection before
anything is said to the host, also who we are.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quarterdeck.agent.ssh import carry, frames
from quarterdeck.core.agentless import Place, place
from quarterdeck.errors import Denied, Invalid, Unavailable
from quarterdeck.service import guarded, write_private
from quarterdeck.settings.environment import ATTEMPT_MARK
from quarterdeck.wire.agentless import AgentlessMessage

if TYPE_CHECKING:
    import asyncssh

CONNECT_S = 10.0
LOGIN_S = 20.0
CLOSE_S = 2.0
LAST_WORDS = 4096
KEY_KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


class Pins:
    """The keys of one host: what is pinned, what was ordered, what it offered."""

    def __init__(self, path: Path, to: Place, ordered: str, accept_new: bool) -> None:
        self._path = path
        self._to = to
        self._ordered = ordered
        self._accept_new = accept_new
        self.offered = ""
        self._pinned = self._load()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of key to ask for, that of the pinned one first."""
        pinned = {line.split()[0] for line in self._pinned}
        first = [k for k in KEY_KINDS if k in pinned or ("ssh-rsa" in pinned and "rsa" in k)]
        return (*first, *(kind for kind in KEY_KINDS if kind not in first))

    def allows(self, key: asyncssh.SSHKey) -> bool:
        """Whether the key that the host offers is the right one; pins it if it is the first."""
        words = " ".join(key.export_public_key("openssh").decode().split()[:2])
        self.offered = key.get_fingerprint()
        if self._ordered:
            if self._ordered not in (words, self.offered):
                return False
        elif self._pinned:
            return words in self._pinned
        elif not self._accept_new:
            return False
        if words not in self._pinned:
            self._pinned = [words]
            host = f"[{self._to.host}]:{self._to.port}"
            write_private(self._path, f"{host} {words}\n".encode())
        return True

    def refusal(self) -> Denied:
        """Why the key that was offered is not taken."""
        host = f"{self._to.host}:{self._to.port}"
        look = "compare it with what `ssh-keygen -lf` prints on that host"
        if not self._ordered and not self._pinned:
            return Denied(
                "host_key_unknown",
                f"The host key of {host} is not known here and nobody ordered to accept a new one; "
                f"it offers {self.offered}: {look}, then add the node again with --host-key "
                f"{self.offered}.",
            )
        known = self._ordered or _fingerprint(self._pinned[0])
        return Denied(
            "host_key_changed",
            f"The host key of {host} is not the one that is known: {known} was expected, it offers "
            f"{self.offered}. No order is sent there. If the host was installed anew, {look} and "
            f"add the node again with --host-key {self.offered}; else somebody sits in between.",
        )

    def _load(self) -> list[str]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ", 1)[1] for line in lines if " " in line]


class Far:
    """A far end that was started (`channel.Wire`)."""

    def __init__(
        self,
        process: asyncssh.SSHClientProcess[bytes],
        connections: list[asyncssh.SSHClientConnection],
    ) -> None:
        self._process = process
        self._connections = connections

    async def readexactly(self, n: int) -> bytes:
        return await self._process.stdout.readexactly(n)

    async def write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def close(self) -> str:
        for connection in self._connections:
            connection.abort()
        for connection in self._connections:
            await guarded(_ended(connection), lambda _: None)
        return ""


async def reach(node: AgentlessMessage, folder: Path) -> Far:
    """Connect to a host and start the far end there. `folder` is the node's own, for its pins.

    Raises Denied, Invalid, or Unavailable, with a sentence.
    """
    to = place(node.place)
    opened: list[asyncssh.SSHClientConnection] = []
    try:
        tunnel = None
        if node.jump:
            first = place(node.jump)
            pins = Pins(folder / "known_jump", first, node.jump_key, node.accept_new)
            tunnel = await _connect(first, node.identity, pins, None)
            opened.insert(0, tunnel)
        pins = Pins(folder / "known_hosts", to, node.host_key, node.accept_new)
        connection = await _connect(to, node.identity, pins, tunnel)
        opened.insert(0, connection)
        return await _start(connection, to, node.id, opened)
    except BaseException:
        for connection in opened:
            connection.abort()
            await guarded(_ended(connection), lambda _: None)
        raise


def _library() -> Any:
    try:
        import asyncssh
    except ImportError as error:
        raise Unavailable(
            "no_asyncssh",
            "This node can't reach others over SSH: install the extra there with "
            "`pip install 'quarterdeck[ssh]'` and start its agent again.",
        ) from error
    return asyncssh


async def _connect(
    to: Place, identity: str, pins: Pins, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    ssh = _library()

    class Client(ssh.SSHClient):  # type: ignore[misc, name-defined]
        """Looks at the host's key."""

        def validate_host_public_key(
            self, host: str, addr: str, port: int, key: asyncssh.SSHKey
        ) -> bool:
            return pins.allows(key)

    try:
        return await ssh.connect(  # type: ignore[no-any-return]
            to.host,
            to.port,
            tunnel=tunnel or (),
            config=None,
            username=to.user,
            client_keys=[identity] if identity else (),
            client_factory=Client,
            known_hosts=([], [], []),
            server_host_key_algs=list(pins.kinds),
            preferred_auth=["publickey"],
            agent_forwarding=False,
            connect_timeout=CONNECT_S,
            login_timeout=LOGIN_S,
            keepalive_interval=15,
            encoding=None,
        )
    except ssh.HostKeyNotVerifiable as error:
        raise pins.refusal() from error
    except ssh.PermissionDenied as error:
        key = f"the key {identity}" if identity else "none of the keys of this agent's user"
        raise Denied(
            "ssh_denied",
            f"{to} does not let us in: {key} is not accepted. Put the public key into "
            f"~/.ssh/authorized_keys of {to.user} there, or name another with --identity.",
        ) from error
    except ssh.KeyImportError as error:
        raise Invalid(
            "ssh_identity", f"The key {identity} can't be used without a person: {error}."
        ) from error
    except ssh.Error as error:
        raise Unavailable("ssh_failed", f"The SSH connection to {to} failed: {error}.") from error
    except TimeoutError as error:
        raise Unavailable("ssh_away", f"{to} can't be reached: no answer in time.") from error
    except OSError as error:
        if identity and error.filename:
            raise Invalid(
                "ssh_identity", f"The key {identity} can't be read on this node: {error.strerror}."
            ) from error
        why = error.strerror or error
        raise Unavailable("ssh_away", f"{to} can't be reached: {why}.") from error


async def _start(
    connection: asyncssh.SSHClientConnection,
    to: Place,
    name: str,
    opened: list[asyncssh.SSHClientConnection],
) -> Far:
    """Start the far end, and wait for its greeting behind whatever the login prints."""
    ssh = _library()
    command = carry.command(carry.FAR, [name, ATTEMPT_MARK])
    try:
        async with asyncio.timeout(LOGIN_S):
            process = await connection.create_process(command, encoding=None)
            process.stdin.write(carry.sources())
            noise = await process.stdout.readuntil(frames.GREETING)
    except asyncio.IncompleteReadError as error:
        noise = error.partial
        if carry.NO_PYTHON.encode() in noise:
            found = noise.decode(errors="replace").split(carry.NO_PYTHON)[-1].strip()
            raise Unavailable(
                "no_python",
                f"{to} has no Python {carry.OLDEST[0]}.{carry.OLDEST[1]} or later (python3 there: "
                f"{found[:100] or 'none'}): install one, or run an agent there.",
            ) from error
        last: bytes = await guarded(process.stderr.read(LAST_WORDS), lambda _: b"")
        words = b" ".join([noise[-200:], last]).decode(errors="replace").split()
        raise Unavailable(
            "ssh_far", f"The far end did not start on {to}: {' '.join(words)[-400:] or 'no word'}."
        ) from error
    except TimeoutError as error:
        raise Unavailable("ssh_far", f"The far end did not start on {to} in time.") from error
    except ssh.Error as error:
        raise Unavailable("ssh_failed", f"{to} starts no command: {error}.") from error
    return Far(process, opened)


async def _ended(connection: asyncssh.SSHClientConnection) -> None:
    async with asyncio.timeout(CLOSE_S):
        await connection.wait_closed()


def _fingerprint(words: str) -> str:
    return str(_library().import_public_key(words).get_fingerprint())
