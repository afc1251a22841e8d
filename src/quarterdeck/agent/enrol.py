"""The node's identity: a key made here, a pass to the fabric fetched with it, kept and renewed.

`identity.json` (mode 600) holds what the server gave. The pass is renewed at half of its life, and
whenever the fabric asks for it after it has expired; a server that is away is asked again later.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import msgspec

from quarterdeck.agent.ask import Asker, host_of, websockets
from quarterdeck.core.access import split
from quarterdeck.core.liveness import SHORT
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.connection import is_websocket
from quarterdeck.fabric.identity import Identity
from quarterdeck.fabric.trust import fingerprint_of, trusting
from quarterdeck.service import Clock, guarded, outside, sentence, write_private
from quarterdeck.wire.enrol import AWAITS_APPROVAL, Credentials, Enrolment, signed_part

ENROL_PATH = "/v1/enrol"
SESSIONS = 32
HALF_LIFE_S = 7 * 86_400
MIN_RENEWAL_S = 60.0


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept in the state directory. `server_ca` (PEM) is pinned; empty: the machine's own
    authorities vouch for the server."""

    server: str
    name: str
    credentials: Credentials
    server_ca: str = ""

    @property
    def fabric_tls(self) -> ssl.SSLContext | None:
        """What verifies the fabric; None: the machine's own authorities, or no TLS."""
        return trusting(self.credentials.fabric_ca) if self.credentials.fabric_ca else None

    @property
    def websocket_urls(self) -> tuple[str, ...]:
        """Where the fabric is inside a WebSocket; what lies below the server has its address."""
        return websockets(self.server, self.credentials.websocket_urls)


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """Where this node asked to be let in and waits for approval: kept, so that it needs no token
    when it is started again meanwhile."""

    server: str
    server_ca: str = ""


class Member:
    """This node's membership of a fleet."""

    def __init__(self, state: Path, clock: Clock, asker: Asker | None = None) -> None:
        self._path = state / "identity.json"
        self._applied = state / "applied.json"
        self._clock = clock
        self._asker = asker or Asker()
        self.key = Identity.open(state / "node.nk")
        self._kept: Membership | None = None

    @property
    def kept(self) -> Membership:
        """Raises Invalid before the node was enrolled."""
        if self._kept is None:
            raise Invalid(
                "not_enrolled",
                "This node is not enrolled: start it once with --join URL --token TOKEN.",
            )
        return self._kept

    def tls(self, url: str) -> ssl.SSLContext | None:
        """What verifies the fabric at an address of it; None: the machine's own authorities."""
        return self._asker.tls(self.kept.server_ca) if is_websocket(url) else self.kept.fabric_tls

    async def open(self, *, server: str, token: str, name: str, trusted: str = "") -> Membership:
        """Load the membership, or enrol with a token; a new server URL or name is taken over.
        `trusted` (PEM) is pinned for a server that is new.

        Raises Invalid, Denied, or Unavailable while the server can't be reached for the first
        enrolment.
        """
        if self._path.exists():
            try:
                self._kept = msgspec.json.decode(self._path.read_bytes(), type=Membership)
            except msgspec.DecodeError as error:
                raise Invalid(
                    "identity", f"{self._path} is damaged ({error}); enrol again with --join."
                ) from error
        known = self._kept
        applied = self._application() if known is None else None
        if applied is not None and server in ("", applied.server) and not split(token)[1]:
            await self._fetch(applied.server, split(token)[0], name, applied.server_ca)
            return self.kept
        if known is None and not server:
            return self.kept
        sent, fingerprint = split(token)
        if self._asker.server_ca:
            fingerprint = ""  # the operator says who vouches
        moved = known is not None and bool(server) and server != known.server
        if (
            known is not None
            and not moved
            and name == known.name
            and not _other(known, fingerprint)
        ):
            return known
        url = server or (known.server if known else "")
        if known is not None and not moved:
            trusted = known.server_ca
        if fingerprint:
            trusted = await outside(lambda: self._asker.fetch(url, fingerprint))
        await self._fetch(url, sent, name, trusted)
        return self.kept

    def begin(self, session: str) -> str:
        """Note durably that this session uses the state; who used it before, as beats tell it.

        To be called before the first beat. The file has its full size from the start and is
        written in place, so that a full disk stops nobody. Raises OSError.
        """
        path = self._path.with_name("sessions")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            kept = os.pread(fd, SESSIONS * SHORT, 0).decode(errors="replace")
            known = [kept[at : at + SHORT].strip() for at in range(0, len(kept), SHORT)]
            before = [short for short in known if short]
            after = "".join([*before, session[:SHORT]][-SESSIONS:])
            os.pwrite(fd, after.ljust(SESSIONS * SHORT).encode(), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        return "".join(before)

    async def jwt(self) -> str:
        """The pass, renewed when half of its life is over; the old one while no server answers."""
        kept = self.kept
        left_s = kept.credentials.expires_at - self._clock.now().timestamp()
        if left_s < HALF_LIFE_S:
            failed: Exception | None = await guarded(self._renewed(), _itself)
            if failed is not None and left_s <= 0:
                raise Unavailable(
                    "pass_expired",
                    "The pass to the fabric has expired and could not be renewed: "
                    f"{sentence(failed)} It is asked for again.",
                ) from failed
        return self.kept.credentials.jwt

    async def until_half_life(self) -> None:
        """Wait until the pass should be renewed, at least a minute."""
        left_s = self.kept.credentials.expires_at - self._clock.now().timestamp()
        await asyncio.sleep(max(left_s - HALF_LIFE_S, MIN_RENEWAL_S))

    async def _renewed(self) -> Exception | None:
        await self.refresh()
        return None

    async def refresh(self) -> None:
        """Ask for a new pass now, for instance because the fabric turned the old one down."""
        await self._fetch(self.kept.server, "", self.kept.name, self.kept.server_ca)

    async def _fetch(self, server: str, token: str, name: str, trusted: str) -> None:
        part = signed_part(self.key.public_key, name, token)
        request = Enrolment(
            public_key=self.key.public_key,
            name=name,
            signature=self.key.sign(part),
            token=token,
            via=host_of(server),
        )
        try:
            data = await outside(lambda: self._asker.post(server, ENROL_PATH, request, trusted))
        except Unavailable as error:
            if error.code == AWAITS_APPROVAL and self._kept is None:
                applied = Applied(server=server, server_ca=trusted)
                write_private(self._applied, msgspec.json.encode(applied))
            raise
        try:
            credentials = msgspec.json.decode(data, type=Credentials)
        except msgspec.DecodeError as error:
            raise Unavailable(
                "server",
                f"{server} did not answer as a server of quarterdeck ({error}): check the URL, "
                "and what stands before the server.",
            ) from error
        self._kept = Membership(
            server=server, name=name, credentials=credentials, server_ca=trusted
        )
        write_private(self._path, msgspec.json.encode(self._kept))
        self._applied.unlink(missing_ok=True)

    def _application(self) -> Applied | None:
        try:
            return msgspec.json.decode(self._applied.read_bytes(), type=Applied)
        except (OSError, msgspec.DecodeError):
            return None  # then it is asked for with the URL and token that are given


def _itself(error: Exception) -> Exception | None:
    return error


def _other(known: Membership, fingerprint: str) -> bool:
    """Whether a token pins another certificate than the one that is kept."""
    if not fingerprint:
        return False
    return not known.server_ca or fingerprint_of(known.server_ca) != fingerprint
