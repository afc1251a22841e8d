"""Puts the listeners together: as the setting `ingest` says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from quarterdeck.control.foreign.book import Book
from quarterdeck.control.foreign.connections import PING_S, Connections
from quarterdeck.control.foreign.counts import View
from quarterdeck.control.foreign.datagrams import Datagrams
from quarterdeck.control.foreign.deliver import Delivery
from quarterdeck.control.foreign.gate import Gate
from quarterdeck.control.foreign.hub import Hub
from quarterdeck.control.foreign.sockets import CONNECTIONS, Ports, bind
from quarterdeck.control.trace.service import Traces
from quarterdeck.core.foreign import Message, Parser, rtail, syslog
from quarterdeck.core.foreign.logio import logio, logio4
from quarterdeck.service import Clock, Poke, entropy
from quarterdeck.settings import ServerSettings, ingest_places, is_loopback, join_listen
from quarterdeck.store.access import Principal
from quarterdeck.telemetry import Telemetry
from quarterdeck.telemetry.trace import ForeignListening

STOP_S = 3.0
KEY_BYTES = 16

DATAGRAMS: dict[str, Callable[[bytes], Message]] = {"rtail": rtail.read, "syslog": syslog.read}
PARSERS: dict[str, Callable[[], Parser]] = {
    "logio": logio,
    "logio4": logio4,
    "syslog": syslog.Syslog,
}


class Foreign:
    """All listeners of one server; without the setting there are none."""

    def __init__(
        self, settings: ServerSettings, *, traces: Traces, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        poke = Poke()
        self._book = Book(
            namespace=settings.ingest_namespace,
            new_key=lambda: entropy(KEY_BYTES).hex(),
            now=clock.now,
            changed=poke,
        )
        self._hub = Hub(self._book, Gate(), clock.monotonic)
        self._delivery = Delivery(
            book=self._book,
            traces=traces,
            by=Principal(id="ingest", kind="send", namespace=settings.ingest_namespace),
            clock=clock,
            poke=poke,
            told=self._hub.told,
        )
        self._places: dict[str, str] = {}
        self._datagrams: list[Datagrams] = []
        self._connections: dict[str, Connections] = {}

    async def listen(self) -> None:
        """Raises Conflict when an address can't be had, Invalid for a bad setting."""
        places = ingest_places(self._settings.ingest)
        ports = Ports(Path(self._settings.data))
        for protocol, (host, port) in places.items():
            sockets = bind(protocol, host, port, ports.kept(protocol, host))
            where = join_listen(host, int(sockets[0].getsockname()[1]))
            self._hub.counts_of(protocol)
            if protocol in CONNECTIONS:
                every = Connections(protocol, self._hub, PARSERS[protocol])
                self._connections[protocol] = every
                await every.start(sockets.pop(0))
            self._datagrams += [
                Datagrams(protocol, one, self._hub, DATAGRAMS[protocol]) for one in sockets
            ]
            self._places[protocol] = where
            self._telemetry.emit(
                ForeignListening(protocol=protocol, where=where, open=not is_loopback(host))
            )
        ports.write(self._places)

    async def stop(self) -> None:
        """Nothing more is read; what was read is delivered and the traces are ended, within
        `STOP_S`. The loops must still run."""
        for one in self._datagrams:
            one.close()
        for every in self._connections.values():
            await every.close()
        self._datagrams.clear()
        self._connections.clear()
        self._book.close_all("the server that listened was stopped")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._delivery.calm()

    def loops(self) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
        """Every loop, by name."""
        if not self._settings.ingest:
            return ()
        return (
            ("foreign lines", self._delivery.deliver),
            ("foreign traces", self._delivery.look),
            ("foreign pings", self._ping),
        )

    @property
    def waiting_bytes(self) -> int:
        """What was read and is not delivered."""
        return self._book.waiting_bytes

    def views(self) -> tuple[View, ...]:
        """Each protocol that is listened to."""
        return tuple(
            View(
                protocol=protocol,
                listen=where,
                connections=len(self._connections.get(protocol, ())),
                senders=self._book.senders(protocol),
                **msgspec.structs.asdict(self._hub.counts_of(protocol)),
            )
            for protocol, where in self._places.items()
        )

    async def _ping(self) -> None:
        """Loop: waits for a tick of `PING_S`."""
        while True:
            await asyncio.sleep(PING_S)
            for every in self._connections.values():
                every.look()
