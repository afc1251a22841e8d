"""A leaf node of the fabric: the nats-server of a site, joined to the fabric by one WebSocket.

It knows the same operator and accounts, by their public JWTs only, so a node's pass counts there as
it does at the fabric, and it holds no secret but its own key. It keeps nothing: streams live at the
fabric, what a node stores goes there and is acknowledged from there. While the way is cut, nobody
listens at the leaf, nodes get no acknowledgement, and send again later.

Removals reach it as a newer account JWT: `take` writes that into the configuration and has the
child read it again, which cuts off whom it names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.identity import Identity
from quarterdeck.fabric.proxy import Proxy
from quarterdeck.service import write_private

RECONNECT = "1s"


class Accounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a nats-server must know to tell whom to admit; none of it is secret."""

    operator_jwt: str
    account: str
    account_jwt: str
    system_account: str
    system_account_jwt: str


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """The way to the fabric. `jwt` is the leaf's pass, `ca` (PEM) verifies `wss:` addresses, names
    included; empty: the machine's own authorities."""

    urls: tuple[str, ...]
    jwt: str
    ca: str = ""


class LeafFabric(EmbeddedFabric):
    """An `EmbeddedFabric` on `directory` that has no streams and leads to another."""

    def __init__(
        self,
        directory: Path,
        key: Identity,
        accounts: Accounts,
        remote: Remote,
        *,
        proxy: Proxy | None,
        host: str,
        port: int,
        tls: Path | None,
        name: str,
    ) -> None:
        super().__init__(directory, None, host=host, port=port, tls=tls, name=name)
        self._key = key
        self._accounts = accounts
        self._remote = remote
        self._proxy = proxy

    def take(self, accounts: Accounts, remote: Remote) -> None:
        """Go on with these; a new pass is used at the next connection."""
        changed = (accounts, remote.urls, remote.ca) != (
            self._accounts,
            self._remote.urls,
            self._remote.ca,
        )
        self._accounts, self._remote = accounts, remote
        self._write_credentials(self._directory.resolve())
        if changed:
            self._write_config()
            self.reload()

    def _role(self, root: Path) -> dict[str, Any]:
        accounts, remote = self._accounts, self._remote
        self._write_credentials(root)
        lead: dict[str, Any] = {
            "urls": list(remote.urls),
            "account": accounts.account,
            "credentials": str(root / "leaf.creds"),
        }
        if remote.ca:
            write_private(root / "remote-ca.pem", remote.ca.encode())
            lead["tls"] = {"ca_file": str(root / "remote-ca.pem"), "timeout": 10}
        if self._proxy is not None:
            lead["proxy"] = self._proxy.as_config()
        return {
            "operator": accounts.operator_jwt,
            "system_account": accounts.system_account,
            "resolver": "MEMORY",
            "resolver_preload": {
                accounts.account: accounts.account_jwt,
                accounts.system_account: accounts.system_account_jwt,
            },
            "leafnodes": {"reconnect": RECONNECT, "remotes": [lead]},
        }

    def _write_credentials(self, root: Path) -> None:
        text = (
            f"-----BEGIN NATS USER JWT-----\n{self._remote.jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self._key.seed}\n------END USER NKEY SEED------\n"
        )
        write_private(root / "leaf.creds", text.encode())
