"""`qd up`: fabric, server and agents as children of one supervisor, restarted when they exit.

Theory. Each child is a process of its own that may be killed at any moment; the supervisor only
starts, watches and restarts. Server and agents hold the reading end of a pipe whose writing end
lives here, so they end when the supervisor is gone; nats-server gets a death signal instead. Shims
hold neither. The listening socket of the API belongs to the supervisor and is handed to each
server, so a restart of the server refuses nobody: connections wait in the backlog.

`ready.json` appears when the API answers and every agent has beaten, is rewritten when a pid
changes, and is removed at the start and at the end.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import click

from quarterdeck.api.listen import bind, url_of
from quarterdeck.api.tls import fingerprint, wants_tls
from quarterdeck.cli.children import Child, Files, Keeper
from quarterdeck.cli.fabric import FabricChild, say_failed
from quarterdeck.client.http import Connection
from quarterdeck.errors import Conflict, Invalid, QuarterdeckError, Unavailable
from quarterdeck.fabric.identity import Authority
from quarterdeck.service import Services, SystemClock, first_of, until_told
from quarterdeck.settings import (
    ServingSettings,
    UpSettings,
    host_name,
    is_loopback,
    join_listen,
    split_listen,
)

READY_LOOK_S = 0.03
READY_WITHIN_S = 60.0
TELL_AFTER_S = 3.0
ANSWER_S = 5.0


class Missing(NamedTuple):
    """What is not ready yet (empty: all is), and its own sentence about it, if any."""

    what: str
    why: str = ""


async def supervise(settings: UpSettings, data: str) -> int:
    """Run until told to stop; the exit code. Raises Conflict and Unavailable with a sentence."""
    supervisor = Supervisor(settings, Files(Path(data)))
    try:
        told = await first_of(supervisor.start(), until_told())
        print(f"qd: {told}: stopping; tasks go on under their shims", file=sys.stderr, flush=True)
    finally:
        await supervisor.stop()
    return 0


class Supervisor:
    """Owns the data directory and the children."""

    def __init__(self, settings: UpSettings, files: Files) -> None:
        self._settings = settings
        self._files = files
        self._clock = SystemClock()
        self._services = Services(say_failed, self._clock)
        self._keeper = Keeper(files, self._services, self._pid_changed)
        self._fabric: FabricChild | None = None
        self._listener: socket.socket | None = None
        self._url = ""
        self._fingerprint = ""
        self._ready = False

    async def start(self) -> None:
        """Start everything; returns when the whole is ready and was announced."""
        self._files.lock()
        await self._files.wait_for_old_children()
        began = self._clock.now()
        Authority.open(self._files.keys)  # it makes the directory, whole, before others write there
        self._fingerprint = fingerprint(
            self._settings.listen,
            tls_cert=self._settings.tls_cert,
            plain_http=self._settings.plain_http,
            keys=self._files.keys,
            now=began,
        )
        self._listener = self._listen()
        self._fabric = self._new_fabric()
        await self._fabric.start(self._keeper, self._services)
        self._write_settings(self._fabric)
        await self._keeper.start(self._server_child(self._listener))
        for name in self._names():
            await self._keeper.start(self._agent_child(name))
        await self._until_ready(began)
        self._ready = True
        self._pid_changed()
        print(f"quarterdeck is ready: {self._url}", flush=True)
        self._hint()

    async def stop(self) -> None:
        """TERM to agents and server, then to the fabric; what does not end is killed."""
        self._files.remove_ready()
        await self._keeper.stop()
        await self._services.stop()
        if self._fabric is not None:
            self._fabric.close()
        if self._listener is not None:
            self._listener.close()
        self._files.unlock()

    def _listen(self) -> socket.socket:
        host, port = split_listen(self._settings.listen)
        kept = self._files.kept_port() if port == 0 else None
        try:
            listener = bind(join_listen(host, kept or port))
        except Conflict:
            if kept is None:
                raise
            listener = bind(join_listen(host, 0))
        chosen = int(listener.getsockname()[1])
        self._files.keep_port(chosen)
        self._url = self._own_url(listener, host)
        return listener

    def _own_url(self, listener: socket.socket, host: str) -> str:
        """Where the children and commands on this machine reach the API. Raises Invalid."""
        settings = self._settings
        tls = wants_tls(settings.listen, tls_cert=settings.tls_cert, plain_http=settings.plain_http)
        if tls and not self._fingerprint:
            if not settings.public_url:
                raise Invalid(
                    "public_url",
                    "With a `tls_cert` of an authority give `public_url` too: the https address "
                    "with the name that is in the certificate.",
                )
            return settings.public_url.rstrip("/")
        return url_of(listener, host, tls=tls)

    def _new_fabric(self) -> FabricChild:
        """It listens where others can reach it when the API does."""
        settings, files = self._settings, self._files
        host, port = split_listen(settings.listen)[0], 0
        if settings.fabric_listen:
            host, port = split_listen(settings.fabric_listen)
        elif is_loopback(host):
            host = "127.0.0.1"
        return FabricChild(
            files.fabric,
            files.keys,
            host=host,
            port=port,
            public_url=settings.fabric_public_url,
            min_free_mib=settings.min_free_mib,
            clock=self._clock,
            websocket_listen="127.0.0.1:0",  # others come in by the API's listener
        )

    def _names(self) -> list[str]:
        host = host_name()
        count = self._settings.nodes
        return [host] if count == 1 else [f"{host}-{n}" for n in range(1, count + 1)]

    def _write_settings(self, fabric: FabricChild) -> None:
        settings, files = self._settings, self._files
        given = {name: getattr(settings, name) for name in ServingSettings.__struct_fields__}
        given |= {"data": str(files.server), "database": settings.database.reveal()}
        files.write_toml(
            files.server / "server.toml",
            **given,
            fabric_url=fabric.url,
            websocket_url=fabric.websocket_url,
            keys=str(files.keys),
        )
        pin = f"_{self._fingerprint}" if self._fingerprint else ""
        for name in self._names():
            files.write_toml(
                files.agent(name) / "agent.toml",
                state=str(files.agent(name)),
                join=self._url,
                token=files.join_token + pin,
                name=name,
                fabric="tcp",
                log_level=settings.log_level,
                min_free_mib=settings.min_free_mib,
                heartbeat_s=settings.heartbeat_s,
            )

    def _server_child(self, listener: socket.socket) -> Child:
        config = str(self._files.server / "server.toml")
        words = ["server", "--config", config, "--listen-fd", str(listener.fileno())]
        return Child("server", words=words, fds=(listener.fileno(),))

    def _agent_child(self, name: str) -> Child:
        config = str(self._files.agent(name) / "agent.toml")
        return Child(f"agent {name}", words=["agent", "--config", config])

    async def _until_ready(self, began: datetime) -> None:
        """Wait until the API answers and every agent has beaten since the start."""
        server = Connection(
            self._url,
            self._files.api_token,
            fingerprint=self._fingerprint,
            patience_s=0,
            timeout_s=ANSWER_S,
        )
        missing, told = Missing("the server"), ""
        since = self._clock.monotonic()
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while missing.what:
                    await asyncio.sleep(READY_LOOK_S)
                    missing = await asyncio.to_thread(self._missing, server, began)
                    late = self._clock.monotonic() - since > TELL_AFTER_S
                    if late and missing.why and missing.why != told:
                        told = missing.why
                        print(f"qd: {told} Waiting.", file=sys.stderr, flush=True)
        except TimeoutError as error:
            raise Unavailable(
                "not_ready",
                f"After {READY_WITHIN_S:.0f} s {missing.what} was not ready: "
                f"{missing.why or 'it said nothing.'} Look into {self._files.logs}, then start "
                "again.",
            ) from error

    def _missing(self, server: Connection, began: datetime) -> Missing:
        try:
            server.get("/readyz")
            found = server.get("/v1/nodes")["items"]
        except QuarterdeckError as error:
            return Missing("the server", "" if error.code == "connection_lost" else error.message)
        there = {
            node["node"]
            for node in found
            if node["last_seen"] and datetime.fromisoformat(node["last_seen"]) >= began
        }
        absent = sorted(set(self._names()) - there)
        return Missing(f"agent {absent[0]}" if absent else "")

    def _pid_changed(self) -> None:
        if self._ready and self._fabric is not None:
            self._files.write_ready(
                self._url, self._fingerprint, self._fabric.url, self._keeper.pids()
            )

    def _hint(self) -> None:
        data = self._settings.data
        where = f" --data {data}" if data else ""
        names = ", ".join(self._names()[:4]) + (", ..." if self._settings.nodes > 4 else "")
        click.echo(f"nodes: {names}", err=True)
        click.echo(f"try:   qd run{where} -t all -- uptime", err=True)
