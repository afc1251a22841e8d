"""`qd fabric --leaf-of URL`: the fabric of a site, which leads to the one of a server by one port.

What it may do it asks a server for, with a leaf token: a pass, whom to admit, a certificate. It
asks again and again, and the server answers once a node was removed, or after some seconds; while
no server answers it goes on with what it has. `leaf.json` (mode 600) keeps the last answer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from quarterdeck.agent.addresses import addresses
from quarterdeck.agent.ask import Asker, asked_to_wait_s, websockets
from quarterdeck.api.tls import names_for
from quarterdeck.cli.children import Child, Files, Keeper
from quarterdeck.cli.fabric import say_failed
from quarterdeck.cli.render import say
from quarterdeck.core.access import split
from quarterdeck.errors import Broken, Invalid, QuarterdeckError, Unavailable
from quarterdeck.fabric.certificates import leaf_request, wants_renewal
from quarterdeck.fabric.identity import Identity
from quarterdeck.fabric.leaf import Accounts, LeafFabric, Remote
from quarterdeck.fabric.proxy import proxy_for
from quarterdeck.service import (
    Backoff,
    Clock,
    Services,
    SystemClock,
    first_of,
    jitter,
    outside,
    until_told,
    write_private,
)
from quarterdeck.settings import FabricSettings, host_name, is_loopback, join_listen, split_listen
from quarterdeck.settings.environment import proxy_variables
from quarterdeck.wire.leaf import LeafCredentials, LeafEnrolment, leaf_part, seen_of

PATH = "/v1/leaf"
ASK_EVERY_S = 5.0  # of a server that answers at once, or not at all
LINGER_S = 1.0
FIRST_WAIT_S = 0.2
MAX_WAIT_S = 5.0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept: whom was asked with which token, what is pinned there, what was given."""

    server: str
    token: str
    server_ca: str
    credentials: LeafCredentials


class LeafMember:
    """A leaf node's standing with the fleet."""

    def __init__(self, settings: FabricSettings, directory: Path, clock: Clock) -> None:
        self._settings = settings
        self._path = directory / "leaf.json"
        self._tls_key = directory / "tls.key"
        self.tls = directory / "tls.pem"
        self._clock = clock
        self.key = Identity.open(directory / "leaf.nk")
        self._asker = Asker(settings.server_ca, proxy_variables())
        host, port = split_listen(settings.listen)
        self.wants_tls = not is_loopback(host)
        self._names = tuple(
            sorted(
                names_for(join_listen(host, port), settings.public_url, (host_name(), *addresses()))
            )
        )
        self._kept = self._load()

    def _load(self) -> Kept | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise Broken("leaf", f"{self._path} can't be used ({error}): delete it.") from error

    @property
    def known(self) -> bool:
        """Whether there is something to go on with, for this server and token."""
        kept, given = self._kept, self._settings
        if kept is None or kept.server != given.leaf_of:
            return False
        if self.wants_tls and not self.tls.exists():
            return False
        return not given.token or split(given.token.reveal())[0] == kept.token

    async def ask(self, *, seen: str = "") -> bool:
        """Get what a leaf needs, or get it anew; whether there is a new certificate. With `seen`
        the answer may wait for what is new.

        Raises Denied, Invalid, Unavailable.
        """
        server, kept = self._settings.leaf_of, self._kept
        token, fingerprint = split(self._settings.token.reveal())
        if not token and kept is not None:
            token = kept.token
        if not token:
            raise Invalid(
                "no_token",
                "A leaf node needs a token once: qd token create --kind leaf, then --token TOKEN.",
            )
        pinned = kept.server_ca if kept is not None and kept.server == server else ""
        if fingerprint and not self._settings.server_ca and not pinned:
            pinned = await outside(lambda: self._asker.fetch(server, fingerprint))
        now = self._clock.now()
        renew = self.wants_tls and wants_renewal(self.tls, self._names, now)
        tls_key = leaf_request(self._tls_key) if renew else ""
        request = LeafEnrolment(
            public_key=self.key.public_key,
            token=token,
            signature=self.key.sign(leaf_part(self.key.public_key, token, tls_key)),
            tls_key=tls_key,
            names=self._names if renew else (),
            seen="" if renew else seen,
        )
        data = await outside(lambda: self._asker.post(server, PATH, request, pinned))
        try:
            given = msgspec.json.decode(data, type=LeafCredentials)
        except msgspec.DecodeError as error:
            raise Unavailable(
                "server", f"{server} did not answer as a server of quarterdeck: {error}."
            ) from error
        certified = bool(given.certificate)
        if certified:
            write_private(self.tls, self._tls_key.read_bytes() + given.certificate.encode())
            given = msgspec.structs.replace(given, certificate="")
        self._kept = Kept(server=server, token=token, server_ca=pinned, credentials=given)
        write_private(self._path, msgspec.json.encode(self._kept))
        return certified

    @property
    def credentials(self) -> LeafCredentials:
        assert self._kept is not None
        return self._kept.credentials

    @property
    def accounts(self) -> Accounts:
        """Whom to admit."""
        given = self.credentials
        return Accounts(
            operator_jwt=given.operator_jwt,
            account=given.account,
            account_jwt=given.account_jwt,
            system_account=given.system_account,
            system_account_jwt=given.system_account_jwt,
        )

    @property
    def remote(self) -> Remote:
        """The way to the fabric. Raises Invalid."""
        kept = self._kept
        assert kept is not None
        ca = kept.server_ca
        if self._settings.server_ca:
            ca = "" if self._settings.server_ca == "system" else _read(self._settings.server_ca)
        urls = websockets(kept.server, kept.credentials.websocket_urls)
        return Remote(urls=urls, jwt=kept.credentials.jwt, ca=ca)


async def serve(settings: FabricSettings) -> None:
    """Run until told to stop. Raises Conflict, Denied, Invalid and Unavailable with a sentence."""
    clock = SystemClock()
    services = Services(say_failed, clock)
    files = Files(Path(settings.data))
    keeper = Keeper(files, services, lambda: None)
    leaf: LeafFabric | None = None

    async def start() -> None:
        nonlocal leaf
        files.hold()
        await files.wait_for_old_children()
        files.fabric.mkdir(parents=True, exist_ok=True, mode=0o700)
        member = LeafMember(settings, files.fabric, clock)
        await _admitted(member)
        leaf = _leaf(settings, files.fabric, member)
        leaf.prepare()
        await keeper.start(Child("fabric", spawn=lambda: _spawned(leaf)))
        await leaf.wait_ready()
        services.loop("leaf", lambda: _keep_asking(member, leaf, clock))
        print(
            f"quarterdeck's leaf node is ready: {leaf.url}; it leads to "
            f"{', '.join(member.remote.urls)}",
            flush=True,
        )

    try:
        told = await first_of(start(), until_told())
        print(f"qd: {told}: stopping the leaf node; tasks go on", file=sys.stderr, flush=True)
    finally:
        await keeper.stop()
        await services.stop()
        if leaf is not None:
            leaf.close()
        files.unlock()


def _leaf(settings: FabricSettings, directory: Path, member: LeafMember) -> LeafFabric:
    host, port = split_listen(settings.listen)
    remote = member.remote
    return LeafFabric(
        directory,
        member.key,
        member.accounts,
        remote,
        proxy=proxy_for(remote.urls[0], proxy_variables()),
        host=host,
        port=port,
        tls=member.tls if member.wants_tls else None,
        name=member.credentials.name,
    )


def _spawned(leaf: LeafFabric) -> int:
    return leaf.spawn().pid


async def _admitted(member: LeafMember) -> None:
    """Ask once; wait for a server only when there is nothing to go on with."""
    backoff, told = Backoff(FIRST_WAIT_S, MAX_WAIT_S), ""
    while True:
        try:
            await member.ask()
            return
        except Unavailable as error:
            if member.known:
                return
            if error.message != told:
                told = error.message
                say(f"qd: {told} Asking again.")
            asked_s = asked_to_wait_s(error)
        await asyncio.sleep(asked_s + backoff.wait_s())


async def _keep_asking(member: LeafMember, leaf: LeafFabric, clock: Clock) -> None:
    """Loop: waits for answers, which wait for news; a server that is away is told of once."""
    told, calm = "", True
    while True:
        if not calm:
            await asyncio.sleep(ASK_EVERY_S * (0.5 + jitter()))
        seen, began = seen_of(member.credentials.account_jwt), clock.monotonic()
        try:
            certified = await member.ask(seen=seen)
        except QuarterdeckError as error:
            calm = False
            await asyncio.sleep(asked_to_wait_s(error))
            if error.message != told:
                told = error.message
                say_failed("leaf", told, ASK_EVERY_S)
            continue
        told = ""
        news = seen_of(member.credentials.account_jwt) != seen
        calm = news or clock.monotonic() - began > LINGER_S  # else it is a server that never waits
        leaf.take(member.accounts, member.remote)
        if certified:
            leaf.reload()


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("server_ca", f"The file {file} can't be read: {error}.") from error
