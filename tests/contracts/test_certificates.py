"""Certificates of an installation, and what a client that pins them takes and refuses."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from quarterdeck.errors import Unavailable
from quarterdeck.fabric.certificates import Signer
from quarterdeck.fabric.embedded import EmbeddedFabric
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.fabric.trust import fingerprint_of, trusting
from tests.contracts.fabric_place import QUICK
from tests.contracts.fabric_server import Harbour

NOW = datetime.now(UTC)
NAMES = ("localhost", "127.0.0.1", "db1.example")


def names(path: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in found.value}


def test_an_installation_has_one_signing_certificate_that_only_its_owner_can_read(
    tmp_path: Path,
) -> None:
    first = Signer.open(tmp_path / "keys", NOW)
    assert Signer.open(tmp_path / "keys", NOW).fingerprint == first.fingerprint
    assert stat.S_IMODE((tmp_path / "keys" / "ca.pem").stat().st_mode) == 0o600
    assert fingerprint_of(first.pem) == first.fingerprint
    assert "PRIVATE" not in first.pem


def test_a_leaf_is_made_anew_near_its_end_for_other_names_and_under_another_signer(
    tmp_path: Path,
) -> None:
    signer = Signer.open(tmp_path / "keys", NOW)
    path = tmp_path / "tls.pem"
    assert signer.leaf(path, NAMES, NOW)
    assert names(path) == set(NAMES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not signer.leaf(path, NAMES, NOW + timedelta(days=200))
    assert signer.leaf(path, NAMES, NOW + timedelta(days=260))
    assert signer.leaf(path, ("localhost",), NOW + timedelta(days=260))
    assert Signer.open(tmp_path / "other", NOW).leaf(path, ("localhost",), NOW)
    path.write_text("damaged")
    assert signer.leaf(path, NAMES, NOW)


@asynccontextmanager
async def listening(leaf: Path) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_pin_takes_a_renewed_leaf_under_any_name_and_refuses_another_signer(
    tmp_path: Path,
) -> None:
    ours, theirs = Signer.open(tmp_path / "a", NOW), Signer.open(tmp_path / "b", NOW)
    ours.leaf(tmp_path / "first", ("localhost",), NOW)
    ours.leaf(tmp_path / "second", ("elsewhere.example",), NOW)
    theirs.leaf(tmp_path / "forged", ("127.0.0.1", "localhost"), NOW)
    for leaf, taken in (("first", True), ("second", True), ("forged", False)):
        async with listening(tmp_path / leaf) as port:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(ours.pem))
            except ssl.SSLCertVerificationError:
                assert not taken
            else:
                assert taken
                writer.close()
                await writer.wait_closed()


class Encrypted(Harbour):
    """A harbour whose fabric listens with TLS."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.signer = Signer.open(root / "authority", NOW)
        self.leaf = root / "fabric-tls.pem"
        self.signer.leaf(self.leaf, ("127.0.0.1",), NOW)
        self.server = EmbeddedFabric(root / "fabric", self.authority, tls=self.leaf)

    def dial(self, url: str, trusted: str) -> NatsFabric:
        key = self.identity("n1")

        async def login() -> str:
            now = int(datetime.now(UTC).timestamp())
            return self.authority.mint_node("n1", key.public_key, now=now, ttl_s=60)

        return NatsFabric(
            [url],
            "n1",
            jwt_source=login,
            signer=key.sign,
            spawn=self.spawn,
            options=QUICK,
            tls=lambda _url: trusting(trusted),
        )


async def test_a_fabric_with_tls_is_reached_by_who_trusts_its_signer_and_by_nobody_else(
    tmp_path: Path,
) -> None:
    place = Encrypted(tmp_path)
    await place.up()
    try:
        assert place.server.url.startswith("tls://")
        link = place.dial(place.server.url, place.signer.pem)
        await link.start()
        await link.publish("hb.n1", b"")
        place.signer.leaf(place.leaf, ("127.0.0.1", "renewed.example"), NOW)
        place.server.reload()
        assert link.connected
        await link.stop()
        stranger = place.dial(place.server.url, Signer.open(tmp_path / "other", NOW).pem)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await stranger.start()
        await stranger.stop()
    finally:
        await place.down()


async def test_a_link_that_must_be_encrypted_does_not_go_on_in_the_clear(tmp_path: Path) -> None:
    plain, ours = Harbour(tmp_path / "plain"), Encrypted(tmp_path / "ours")
    await plain.up()
    try:
        link = ours.dial(plain.server.url.replace("nats:", "tls:"), ours.signer.pem)
        with pytest.raises(Unavailable, match="does not offer TLS"):
            await link.start()
        await link.stop()
    finally:
        await plain.down()
