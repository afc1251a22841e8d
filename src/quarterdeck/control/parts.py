"""What a server stands on, opened as its settings say: database, fabric, archive, keys."""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from quarterdeck.errors import Conflict, Invalid, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.fabric.certificates import LEAF_CA, Signer
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats.fabric import NatsFabric
from quarterdeck.fabric.trust import trusting
from quarterdeck.service import Clock, Services, jitter, lock_directory
from quarterdeck.settings import ServerSettings
from quarterdeck.store.archive import Archive
from quarterdeck.store.base import Database
from quarterdeck.store.database import open_database
from quarterdeck.telemetry import FabricTrouble, Telemetry
from quarterdeck.wire.enrol import FABRIC_PATH

LOGIN_TTL_S = 86_400
PASS_TTL_S = 14 * 86_400
# The clock of another server that still gave a pass may have been ahead by this much.
SKEW_S = 3600

Revoke = Callable[[Mapping[str, datetime]], Awaitable[None]]
"""Voids the passes of these public keys, each removed at its time; cuts who uses one."""


async def no_passes(_removed: Mapping[str, datetime]) -> None:
    """For a fabric that knows no passes."""


def nothing() -> None:
    """For parts that hold no directory."""


class Leaves(msgspec.Struct, frozen=True, kw_only=True):
    """How leaf nodes of the fabric are admitted: `mint(name, public key, now, ttl_s)` makes a pass,
    `certify(public key, names, now)` a certificate, `accounts` says whom a leaf admits."""

    mint: Callable[[str, str, int, int], str]
    certify: Callable[[str, tuple[str, ...], datetime], str]
    accounts: Callable[[], dict[str, str]]


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one server. `id` is its name on the fabric and in leases.

    `mint(node id, public key, now, ttl_s)` makes a node's pass, `sign` signs orders, whose public
    keys are `order_keys`. `let_go` gives the data directory back to others.
    """

    id: str
    database: Database
    fabric: Fabric
    archive: Archive
    mint: Callable[[str, str, int, int], str]
    sign: Callable[[bytes], bytes]
    order_keys: tuple[str, ...]
    fabric_urls: tuple[str, ...]
    revoke: Revoke = no_passes
    let_go: Callable[[], None] = nothing
    fabric_ca: str = ""
    leaves: Leaves | None = None
    fabric_tls: ssl.SSLContext | None = None
    websocket_urls: tuple[str, ...] = ()


Opener = Callable[[ServerSettings, Services, Telemetry, Clock], Parts]


def open_parts(
    settings: ServerSettings, services: Services, telemetry: Telemetry, clock: Clock
) -> Parts:
    """The real parts, not yet started. Raises Unavailable when the data directory is no use, and
    Conflict while another server has it."""
    data = Path(settings.data)
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = lock_directory(data)
    except OSError as error:
        raise Unavailable(
            "data_directory",
            f"The data directory {data} can't be used: {error.strerror or error}.",
        ) from error
    if lock is None:
        raise Conflict(
            "data_in_use",
            f"The data directory {data} is in use by another server; stop that one, or give this "
            "one a directory of its own.",
        )
    authority = Authority.open(Path(settings.keys))
    fabric_ca = _fabric_ca(settings, clock)
    tls = trusting(fabric_ca) if fabric_ca else None
    leaf_signer = Signer.open(Path(settings.keys), clock.now(), name=LEAF_CA)
    order_key = Identity.open(Path(settings.keys) / "orders.nk")
    login = Identity.open(data / "server.nk")
    id = "s" + login.public_key[1:16].lower()

    async def jwt() -> str:
        now = int(clock.now().timestamp())
        return authority.mint_server(id, login.public_key, now=now, ttl_s=LOGIN_TTL_S)

    fabric = NatsFabric(
        [settings.fabric_url],
        id,
        jwt_source=jwt,
        signer=login.sign,
        spawn=services.spawn,
        random=jitter,
        on_error=lambda text: telemetry.emit(FabricTrouble(who=id, error=text)),
        tls=lambda _url: tls,
    )
    return Parts(
        id=id,
        database=open_database(settings.database, data / "quarterdeck.sqlite3"),
        fabric=fabric,
        archive=Archive(Path(settings.archive or data / "archive"), data / "work"),
        mint=lambda node, key, now, ttl_s: authority.mint_node(node, key, now=now, ttl_s=ttl_s),
        sign=order_key.sign,
        order_keys=(order_key.public_key,),
        fabric_urls=(settings.fabric_public_url or settings.fabric_url,),
        revoke=_revoker(authority, settings.fabric_url, services, clock, tls),
        fabric_ca="" if settings.fabric_ca == "system" else fabric_ca + leaf_signer.pem,
        leaves=_leaves(authority, leaf_signer),
        fabric_tls=tls,
        websocket_urls=_websocket_urls(settings),
        let_go=partial(os.close, lock),
    )


def _leaves(authority: Authority, signer: Signer) -> Leaves:
    def accounts() -> dict[str, str]:
        return {
            "operator_jwt": authority.operator_jwt,
            "account": authority.account,
            "account_jwt": authority.account_jwt,
            "system_account": authority.system_account,
            "system_account_jwt": authority.system_account_jwt,
        }

    return Leaves(
        mint=lambda name, key, now, ttl_s: authority.mint_leaf(name, key, now=now, ttl_s=ttl_s),
        certify=signer.certify,
        accounts=accounts,
    )


def _websocket_urls(settings: ServerSettings) -> tuple[str, ...]:
    """Where nodes are told that the fabric's WebSocket is: whole, or below the API's address."""
    if settings.websocket_public_url:
        return (settings.websocket_public_url,)
    return (FABRIC_PATH,) if settings.websocket_url else ()


def _fabric_ca(settings: ServerSettings, clock: Clock) -> str:
    """The certificate that verifies the fabric; empty without TLS, or for the machine's own."""
    secure = settings.fabric_url.startswith("tls:") or settings.websocket_url.startswith("wss:")
    if not secure or settings.fabric_ca == "system":
        return ""
    if not settings.fabric_ca:
        return Signer.open(Path(settings.keys), clock.now()).pem
    try:
        return Path(settings.fabric_ca).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            "fabric_ca", f"The certificate {settings.fabric_ca} can't be read: {error}."
        ) from error


def _revoker(
    authority: Authority,
    url: str,
    services: Services,
    clock: Clock,
    tls: ssl.SSLContext | None,
) -> Revoke:
    """The account with its revocations is sent by a link of the system account, made for it."""
    key = Identity.fresh()

    async def revoke(removed: Mapping[str, datetime]) -> None:
        now = int(clock.now().timestamp())
        oldest = now - PASS_TTL_S  # passes given before it have expired
        void = {key: int(at.timestamp()) + SKEW_S for key, at in removed.items()}
        current = {key: at for key, at in void.items() if at >= oldest}
        changed = authority.revoke(current, prune_before=oldest, now=now)
        if not (changed or current):
            return

        async def jwt() -> str:
            return authority.mint_system("sys", key.public_key, now=now, ttl_s=600)

        link = NatsFabric(
            [url],
            "sys",
            jwt_source=jwt,
            signer=key.sign,
            spawn=services.spawn,
            random=jitter,
            tls=lambda _url: tls,
        )
        try:
            await link.start()
            await authority.push_account(link)
        finally:
            await link.stop()

    return revoke
