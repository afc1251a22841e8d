"""Certificates of an installation: one of its own that signs, and leaves for servers and fabric.

`keys/ca.pem` (mode 600) holds the signing key and its certificate, made on first use and valid for
20 years: its fingerprint is what agents and clients pin. A leaf is one file with key, certificate
and the signing one; it is made anew when its names change or a third of its life is left, so that
a renewal needs no new pin anywhere.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quarterdeck.errors import Broken
from quarterdeck.fabric.trust import fingerprint_of
from quarterdeck.service import write_private

CA = "ca.pem"
LEAF_CA = "leaf-ca.pem"
"""Signs for leaf nodes. Nodes trust it for the fabric and nobody trusts it for a server, else who
has a leaf node could answer as one."""
CA_DAYS = 20 * 366
LEAF_DAYS = 366
RENEW_LEFT = timedelta(days=LEAF_DAYS / 3)
EARLIER = timedelta(days=1)  # clocks of nodes may be behind


class Signer:
    """The signing certificate of an installation."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self.pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.fingerprint = fingerprint_of(self.pem)

    @classmethod
    def open(cls, keys: Path, now: datetime, *, name: str = CA) -> Signer:
        """Load a signing certificate from a directory of keys, or make it. Two first users get the
        same one."""
        path = keys / name
        if not path.exists():
            _create(path, now)
        try:
            data = path.read_bytes()
            key = serialization.load_pem_private_key(data, None)
            certificate = x509.load_pem_x509_certificate(data)
        except (OSError, ValueError) as error:
            raise Broken(
                "ca_broken", f"{path} can't be used ({error}): restore it from a backup."
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Broken(
                "ca_broken",
                f"{path} holds a key of another kind: restore it from a backup of the key "
                "directory.",
            )
        return cls(key, certificate)

    def leaf(self, path: Path, names: Iterable[str], now: datetime) -> bool:
        """See that `path` holds a certificate for these names that is good for a while.

        Whether it was made anew.
        """
        wanted = sorted({name for name in names if name})
        with contextlib.suppress(OSError, ValueError):
            found = x509.load_pem_x509_certificate(path.read_bytes())
            if (
                found.not_valid_after_utc - now > RENEW_LEFT
                and sorted(_names_of(found)) == wanted
                and self._signed(found)
            ):
                return False
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certified(key.public_key(), wanted, now)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, (_private(key) + _public(certificate) + self.pem).encode())
        return True

    def certify(self, public_key: str, names: Iterable[str], now: datetime) -> str:
        """A certificate (PEM, with the signing one) for somebody else's key (PEM). Raises
        ValueError."""
        try:
            key = serialization.load_pem_public_key(public_key.encode())
        except UnsupportedAlgorithm as error:
            raise ValueError("a key of an unknown kind") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("a key of another kind than EC")
        wanted = sorted({name for name in names if name})
        return _public(self._certified(key, wanted, now)) + self.pem

    def _certified(
        self, key: ec.EllipticCurvePublicKey, names: list[str], now: datetime
    ) -> x509.Certificate:
        return (
            _draft(key, self._certificate.subject, "quarterdeck", now, LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )

    def _signed(self, leaf: x509.Certificate) -> bool:
        try:
            leaf.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):  # it is made anew
            return False
        return True


def _create(path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quarterdeck installation")])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        _draft(key.public_key(), name, "quarterdeck installation", now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_private(fresh, (_private(key) + _public(certificate)).encode())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()


def _draft(
    key: ec.EllipticCurvePublicKey, issuer: x509.Name, name: str, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _public(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(general.value) for general in extension.value]


def leaf_request(path: Path) -> str:
    """The public key (PEM) of a key that is made at `path` when there is none."""
    if not path.exists():
        write_private(path, _private(ec.generate_private_key(ec.SECP256R1())).encode())
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise Broken(
            "tls_key",
            f"{path} can't be used ({error}): delete it and start again, a new one is made.",
        ) from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def wants_renewal(path: Path, names: Iterable[str], now: datetime) -> bool:
    """Whether the first certificate of a file is for other names, near its end, or not there."""
    with contextlib.suppress(OSError, ValueError):
        found = x509.load_pem_x509_certificate(path.read_bytes())
        wanted = sorted({name for name in names if name})
        return found.not_valid_after_utc - now <= RENEW_LEFT or sorted(_names_of(found)) != wanted
    return True


def self_signed(pem: bytes) -> str:
    """The first certificate of a PEM text when it signed itself, else an empty text.

    Raises ValueError.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    if certificate.issuer != certificate.subject:
        return ""
    return _public(certificate)
