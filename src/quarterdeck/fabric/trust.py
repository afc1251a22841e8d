"""Whom to trust over TLS: one pinned certificate, found by its fingerprint. Standard library only.

An installation signs the certificates of its servers and its fabric with a certificate of its own
(certificates.py). Who knows the SHA-256 of that one fetches it from the server without trusting
anybody, compares, and from then on trusts it and nothing else. The names in a certificate do not
matter then: it signs for nobody but this installation.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping

from quarterdeck.errors import Denied, Invalid, Unavailable
from quarterdeck.fabric.proxy import Way

PATH = "/v1/certificate"
LIMIT = 64 << 10


def fingerprint_of(pem: str) -> str:
    """The SHA-256 of the first certificate of a PEM text, 64 hex digits. Raises ValueError."""
    begin = pem.index("-----BEGIN CERTIFICATE-----")
    end = pem.index(_END, begin) + len(_END)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[begin:end])).hexdigest()


_END = "-----END CERTIFICATE-----"


def trusting(pem: str) -> ssl.SSLContext:
    """A client's context that trusts this certificate and what it signed, under any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise Invalid(
            "certificate",
            f"The server sent a certificate that can't be read ({error}): check that a server of "
            "quarterdeck answers at that address.",
        ) from error
    return context


def verifying(file: str) -> ssl.SSLContext:
    """A client's context that trusts the authorities in a PEM file, for the names they certify.

    Raises Invalid.
    """
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:
        raise Invalid(
            "server_ca",
            f"The file {file} (server_ca) holds no certificates to trust ({error}): name a PEM "
            "file with those of the authority.",
        ) from error


def fetch(
    url: str, fingerprint: str, *, timeout_s: float, proxies: Mapping[str, str] | None = None
) -> str:
    """The certificate (PEM) with this fingerprint, asked from the server at `url`.

    Raises Denied (`wrong_certificate`) when it shows another, Unavailable when it can't be reached.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https":
        raise Invalid(
            "no_tls",
            f"The token (or fingerprint) names a certificate, but {url} is no https address: write "
            "https:// there, or use a token without a fingerprint.",
        )
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE  # what comes is compared with the fingerprint
    way = Way(url, proxies or {})
    connection = way.connection(timeout_s, nobody)
    try:
        connection.request("GET", parts.path.rstrip("/") + PATH)
        answer = connection.getresponse()
        pem = json.loads(answer.read(LIMIT))["pem"] if answer.status == 200 else ""
        genuine = fingerprint_of(str(pem)) == fingerprint
    except (ValueError, KeyError, TypeError):
        genuine = False
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            "no_server",
            f"The server at {url} can't be reached{way.through()}: {error}. Check the address, "
            "that the server runs, and what stands between.",
        ) from error
    finally:
        connection.close()
    if not genuine:
        raise wrong(url)
    return str(pem)


def wrong(url: str) -> Denied:
    """The error for a server that does not show the certificate that was pinned."""
    return Denied(
        "wrong_certificate",
        f"The server at {url} does not show the certificate that the token (or ready.json, or "
        "QD_FINGERPRINT) names: either another machine answers there, or the server got new keys; "
        "nothing was sent. Ask for a new token.",
    )


def untrusted(error: BaseException) -> bool:
    """Whether an error says that a certificate was not believed."""
    kinds = (error, getattr(error, "reason", None))  # URLError wraps what happened
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in kinds)
