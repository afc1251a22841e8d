"""The certificate a server shows: given by the operator, or its installation's own.

Beyond loopback there is always one, unless the operator said `plain_http = true`. What callers are
to pin is the installation's signing certificate, or a given one that signed itself; a given one of
a public authority is verified as everywhere and has no fingerprint.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from quarterdeck.errors import Invalid
from quarterdeck.fabric.certificates import Signer, self_signed
from quarterdeck.fabric.trust import fingerprint_of
from quarterdeck.settings import ServerSettings, is_loopback, is_wildcard, split_listen

RENEW_EVERY_S = 6 * 3600.0
LOCAL = ("localhost", "127.0.0.1", "::1")


class Shown(msgspec.Struct, frozen=True):
    """`context` None: plain HTTP. `pem` and `fingerprint` are of what callers pin, or empty."""

    context: ssl.SSLContext | None = None
    pem: str = ""
    fingerprint: str = ""


def wants_tls(listen: str, *, tls_cert: str, plain_http: bool) -> bool:
    """Whether a server with these settings speaks TLS. Raises Invalid when they contradict."""
    if tls_cert and plain_http:
        raise Invalid("settings", "`plain_http` and `tls_cert` contradict each other: drop one.")
    return bool(tls_cert) or not (plain_http or is_loopback(split_listen(listen)[0]))


def fingerprint(listen: str, *, tls_cert: str, plain_http: bool, keys: Path, now: datetime) -> str:
    """What callers of such a server pin; empty without TLS, or when a public authority vouches."""
    if not wants_tls(listen, tls_cert=tls_cert, plain_http=plain_http):
        return ""
    if not tls_cert:
        return Signer.open(keys, now).fingerprint
    own = _self_signed(tls_cert)
    return fingerprint_of(own) if own else ""


class Certificate:
    """What one server shows; `look_again` renews it while the server runs."""

    def __init__(self, settings: ServerSettings, names: Iterable[str], now: datetime) -> None:
        """Raises Invalid for files that can't be used."""
        self._settings = settings
        self._names = names_for(settings.listen, settings.public_url, names)
        self._path = Path(settings.data) / "tls.pem"
        self._signer: Signer | None = None
        self.shown = Shown()
        tls = wants_tls(settings.listen, tls_cert=settings.tls_cert, plain_http=settings.plain_http)
        if tls and settings.tls_cert:
            self.shown = _given(settings.tls_cert, settings.tls_key)
        elif tls:
            signer = self._signer = Signer.open(Path(settings.keys), now)
            signer.leaf(self._path, self._names, now)
            context = _context()
            context.load_cert_chain(self._path)
            self.shown = Shown(context, signer.pem, signer.fingerprint)

    def look_again(self, now: datetime) -> None:
        """Load what the operator renewed, or renew what is near its end; connections stay."""
        context = self.shown.context
        if context is None:
            return
        if self._signer is None:
            context.load_cert_chain(self._settings.tls_cert, self._settings.tls_key or None)
        elif self._signer.leaf(self._path, self._names, now):
            context.load_cert_chain(self._path)


def names_for(listen: str, public_url: str, names: Iterable[str]) -> set[str]:
    """The names and addresses in a certificate, without wildcards."""
    host = split_listen(listen)[0]
    public = public_url.partition("://")[2].partition("/")[0].rpartition(":")[0].strip("[]")
    found = {*LOCAL, *names, host, public}
    return {name for name in found if name and not is_wildcard(name)}


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _given(certificate: str, key: str) -> Shown:
    context = _context()
    try:
        context.load_cert_chain(certificate, key or None)
    except (OSError, ValueError) as error:
        raise Invalid(
            "tls_cert",
            f"The certificate {certificate} with the key {key or 'in it'} can't be used: {error}.",
        ) from error
    own = _self_signed(certificate)
    return Shown(context, own, fingerprint_of(own) if own else "")


def _self_signed(certificate: str) -> str:
    try:
        return self_signed(Path(certificate).read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid("tls_cert", f"The certificate {certificate} can't be read: {error}.") from (
            error
        )
