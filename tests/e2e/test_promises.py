"""What the guide promises of certificates, plain HTTP and full disks (operating.md)."""

from __future__ import annotations

import datetime
import http.client
import json
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quarterdeck.fabric.certificates import Signer
from quarterdeck.fabric.trust import fingerprint_of
from tests.contracts.postgres_server import free_port
from tests.e2e.up import QD, Up, running, wait_for

NOW = datetime.datetime.now(datetime.UTC)


def ran(up: Up) -> bytes:
    """What a run on the node of `qd up` prints: command, server and agent all reach each other."""
    done = up.qd("run", "-t", "all", "--", "echo reached")
    assert done.returncode == 0, (done, up.logs())
    return done.stdout


def own_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "qd.example.org")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=1))
        .not_valid_after(NOW + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(secret)
    return directory / "cert.pem", directory / "key.pem"


def test_a_certificate_of_ones_own_is_shown_and_pinned(tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    env = {"QD_TLS_CERT": str(certificate), "QD_TLS_KEY": str(key)}
    with running(tmp_path / "up", nodes=1, env=env) as up:
        assert up.ready["url"].startswith("https://127.0.0.1:")
        assert up.ready["fingerprint"] == fingerprint_of(certificate.read_text())
        assert ran(up) == b"reached\n"


def test_a_certificate_of_an_authority_is_verified_under_the_name_of_public_url(
    tmp_path: Path,
) -> None:
    authority = Signer.open(tmp_path / "authority", NOW)
    (tmp_path / "known.pem").write_text(authority.pem)
    authority.leaf(tmp_path / "tls.pem", ["localhost"], NOW)
    port = free_port()
    env = {"QD_TLS_CERT": str(tmp_path / "tls.pem"), "SSL_CERT_FILE": str(tmp_path / "known.pem")}
    listen = f"127.0.0.1:{port}"
    words = [QD, "up", "--data", str(tmp_path / "no"), "--listen", listen]
    without = Up(tmp_path / "no", nodes=1, env=env)
    refused = subprocess.run(words, env=without.env, capture_output=True, timeout=30, check=False)
    assert refused.returncode == 2 and b"public_url" in refused.stderr, refused
    env["QD_PUBLIC_URL"] = f"https://localhost:{port}"
    with running(tmp_path / "up", nodes=1, env=env, listen=listen) as up:
        assert up.ready["url"] == env["QD_PUBLIC_URL"]
        assert "fingerprint" not in up.ready
        assert ran(up) == b"reached\n"


def test_plain_http_beyond_loopback_is_there_for_who_asks_for_it(tmp_path: Path) -> None:
    env = {"QD_PLAIN_HTTP": "true"}
    with running(tmp_path / "up", nodes=1, env=env, listen="0.0.0.0:0") as up:
        ready = up.ready
        assert ready["url"].startswith("http://127.0.0.1:") and "fingerprint" not in ready
        assert ready["fabric_url"].startswith("tls://")
        connection = http.client.HTTPConnection(ready["url"].removeprefix("http://"), timeout=20)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()
        assert ran(up) == b"reached\n"


def test_a_node_without_room_refuses_new_work_and_says_why(up: Up, tmp_path: Path) -> None:
    token = up.json("token", "create", "--kind", "join")["token"]
    settings = {
        "state": str(tmp_path / "full"),
        "join": up.ready["url"],
        "token": token,
        "name": "full",
        "min_free_mib": 1 << 40,
    }
    config = tmp_path / "agent.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    agent = up.popen("agent", "--config", str(config))
    try:
        wait_for("the node", lambda: "full" in up.qd("nodes").stdout.decode())
        run = up.ended(up.detach("full", "--", f"touch {tmp_path}/ran"))
        assert run["outcome"] == "failed"
        (task,) = run["tasks"]
        assert "MiB free" in task["error"] and str(1 << 40) in task["error"], task
        assert not (tmp_path / "ran").exists()
    finally:
        agent.terminate()
        agent.communicate(timeout=30)
        up.qd("node", "remove", "full")
