"""A real nats-server for tests: on a free port in a temporary directory, and a proxy to hurt it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats import NatsFabric, Options
from quarterdeck.fabric.proxy import Proxy
from quarterdeck.service import jitter
from tests.contracts.fabric_place import DEADLINE_S, QUICK, Place, opened


class Harbour(Place):
    """One embedded fabric with its authority, and every link made to it."""

    def __init__(self, root: Path, **settings: Any) -> None:
        """`settings`: further keys of the server's configuration."""
        super().__init__()
        self.root = root
        self.authority = Authority.open(root / "authority")
        self.server = EmbeddedFabric(root / "fabric", self.authority, extra=settings)
        self.ttl_s = 3600
        self._process: Any = None

    async def up(self) -> None:
        self._process = self.server.spawn()
        await self.server.wait_ready(DEADLINE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def down(self) -> None:
        await super().down()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
        self.server.close()

    @property
    def port(self) -> int:
        """Where the server listens."""
        return urlsplit(self.server.url).port or 0

    def identity(self, name: str) -> Identity:
        return Identity.open(self.root / "keys" / name)

    def make(
        self,
        role: str,
        name: str,
        *,
        url: str | list[str] = "",
        options: Options = QUICK,
        jwt_source: Callable[[], Coroutine[Any, Any, str]] | None = None,
        random: Callable[[], float] = jitter,
        proxies: Callable[[str], Proxy | None] | None = None,
    ) -> NatsFabric:
        """A link, not started; it is stopped with the harbour."""
        identity = self.identity(name)
        mint = getattr(self.authority, f"mint_{role}")

        async def fresh() -> str:
            token: str = mint(name, identity.public_key, now=int(time.time()), ttl_s=self.ttl_s)
            return token

        link = NatsFabric(
            url if isinstance(url, list) else [url or self.server.url],
            name,
            jwt_source=jwt_source or fresh,
            signer=identity.sign,
            spawn=self.spawn,
            on_error=self.complain,
            random=random,
            options=options,
            proxies=proxies,
        )
        self._links.append(link)
        return link


@contextlib.asynccontextmanager
async def harbour(root: Path, **settings: Any) -> AsyncIterator[Harbour]:
    """A running harbour; nothing of it may be left afterwards."""
    place = Harbour(root, **settings)
    async with opened(place):
        yield place
