"""`qd fabric`: the fabric of several servers; and the same as a child of `qd up`.

nats-server is a child that is started again when it exits. A full disk makes it switch its storage
off for good, so it is started anew when there is room again. Beyond loopback it speaks TLS with a
certificate that the installation signs and that is renewed while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from quarterdeck.agent.addresses import addresses
from quarterdeck.api.tls import RENEW_EVERY_S, names_for
from quarterdeck.cli.children import Child, Files, Keeper
from quarterdeck.core.room import room
from quarterdeck.fabric.certificates import LEAF_CA, Signer
from quarterdeck.fabric.embedded import EmbeddedFabric, WebSocket
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.service import Clock, Services, SystemClock, first_of, free_bytes, until_told
from quarterdeck.settings import FabricSettings, host_name, is_loopback, join_listen, split_listen

LOOK_S = 5.0


class FabricChild:
    """A nats-server on `directory` that a `Keeper` keeps, with its certificate and its watch."""

    def __init__(
        self,
        directory: Path,
        keys: Path,
        *,
        host: str,
        port: int,
        public_url: str,
        min_free_mib: int,
        clock: Clock,
        websocket_listen: str,
    ) -> None:
        """`websocket_listen` is HOST:PORT, or empty for none."""
        self._directory = directory
        self._keys = keys
        self._min_free_mib = min_free_mib
        self._clock = clock
        self._names = names_for(join_listen(host, port), public_url, (host_name(), *addresses()))
        self._tls = None if is_loopback(host) else directory / "tls.pem"
        websocket = self._websocket(websocket_listen)
        self._server = EmbeddedFabric(
            directory,
            Authority.open(keys),
            host=host,
            port=port,
            tls=self._tls,
            websocket=websocket,
        )

    def _websocket(self, listen: str) -> WebSocket | None:
        if not listen:
            return None
        host, port = split_listen(listen)
        if is_loopback(host):
            return WebSocket(host=host, port=port)
        self._tls = self._directory / "tls.pem"  # and then for TCP too
        return WebSocket(host=host, port=port, tls=self._tls)

    @property
    def url(self) -> str:
        """Where this machine reaches it, once it was started."""
        return self._server.url

    @property
    def websocket_url(self) -> str:
        """The same for its WebSocket; empty without one."""
        return self._server.websocket_url

    async def start(self, keeper: Keeper, services: Services) -> None:
        """Returns when it serves. Raises Conflict and Unavailable with a sentence."""
        if self._renew_certificate():
            services.loop("certificate of the fabric", self._renew_certificates)
        self._server.prepare()
        await keeper.start(Child("fabric", spawn=lambda: self._server.spawn().pid))
        await self._server.wait_ready()
        services.loop("fabric storage", lambda: self._watch_storage(keeper))

    def close(self) -> None:
        """Give the directory back, once the keeper has stopped."""
        self._server.close()

    def _renew_certificate(self) -> bool:
        """Whether it has one at all; a fresh one is shown to the next who connects."""
        if self._tls is None:
            return False
        now = self._clock.now()
        if Signer.open(self._keys, now).leaf(self._tls, self._names, now):
            self._server.reload()
        return True

    async def _renew_certificates(self) -> None:
        """Loop: waits for a tick of `RENEW_EVERY_S` only."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            self._renew_certificate()

    async def _watch_storage(self, keeper: Keeper) -> None:
        """Loop: waits for a tick of `LOOK_S`; asks once there is room."""
        while True:
            await asyncio.sleep(LOOK_S)
            if room(free_bytes(self._directory), self._min_free_mib, str(self._directory)):
                continue
            if await self._server.storage_disabled():
                keeper.restart("fabric")


async def serve(settings: FabricSettings) -> None:
    """Run until told to stop. Raises Conflict and Unavailable with a sentence."""
    clock = SystemClock()
    services = Services(say_failed, clock)
    files = Files(Path(settings.data))
    keeper = Keeper(files, services, lambda: None)
    fabric: FabricChild | None = None

    async def start() -> None:
        nonlocal fabric
        files.hold()
        await files.wait_for_old_children()
        keys = Path(settings.keys or files.keys)
        host, port = split_listen(settings.listen)
        fabric = FabricChild(
            files.fabric,
            keys,
            host=host,
            port=port,
            public_url=settings.public_url,
            min_free_mib=settings.min_free_mib,
            clock=clock,
            websocket_listen=settings.websocket_listen,
        )
        _complete(keys, clock)
        await fabric.start(keeper, services)
        places = " ".join(filter(None, (fabric.url, fabric.websocket_url)))
        print(f"quarterdeck's fabric is ready: {places}; keys: {keys}", flush=True)

    try:
        told = await first_of(start(), until_told())
        print(f"qd: {told}: stopping the fabric; tasks go on", file=sys.stderr, flush=True)
    finally:
        await keeper.stop()
        await services.stop()
        if fabric is not None:
            fabric.close()
        files.unlock()


def _complete(keys: Path, clock: Clock) -> None:
    """All keys of an installation, so that a copy of the directory is the same for each server."""
    Identity.open(keys / "orders.nk")
    Signer.open(keys, clock.now())
    Signer.open(keys, clock.now(), name=LEAF_CA)


def say_failed(name: str, error: str, delay_s: float) -> None:
    """A loop's trouble, on stderr."""
    with contextlib.suppress(OSError):
        print(f"qd: {name}: {error}", file=sys.stderr, flush=True)
