"""Debian's nginx before a server: TLS with a certificate of an authority, API and fabric."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from quarterdeck.fabric.certificates import Signer
from tests.e2e.up import wait_for

CONFIG = """
daemon off;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen {host}:{port} ssl;
        ssl_certificate {root}/leaf.pem;
        ssl_certificate_key {root}/leaf.pem;
        client_max_body_size 64m;
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_set_header Host $http_host;
        location / {{
            proxy_pass {api};
        }}
        location /fabric {{
            proxy_pass {fabric};
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


def missing() -> str:
    """Empty, or what is not here."""
    return "" if shutil.which("nginx") else "no nginx (Debian's package nginx)"


class Nginx:
    """`authority` is the PEM file that vouches for it."""

    def __init__(self, root: Path, host: str, *, api: str, fabric: str = "") -> None:
        self._root = root
        root.mkdir()
        signer = Signer.open(root / "authority", datetime.now(UTC))
        signer.leaf(root / "leaf.pem", [host], datetime.now(UTC))
        self.authority = root / "authority.pem"
        self.authority.write_text(signer.pem)
        with socket.create_server((host, 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"https://{host}:{self.port}"
        self._place = (host, self.port)
        (root / "nginx.conf").write_text(
            CONFIG.format(root=root, host=host, port=self.port, api=api, fabric=fabric or api)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["nginx", "-p", str(self._root), "-c", str(self._root / "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def answers() -> bool:
            assert self._process is not None and self._process.poll() is None, self._errors()
            with contextlib.suppress(OSError), socket.create_connection(self._place, 1):
                return True
            return False

        wait_for("nginx", answers)

    def stop(self) -> None:
        """At once, with every connection."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def _errors(self) -> str:
        return (self._root / "error.log").read_text()


@contextlib.contextmanager
def before(root: Path, host: str, *, api: str, fabric: str = "") -> Iterator[Nginx]:
    """A running nginx at `host`."""
    nginx = Nginx(root, host, api=api, fabric=fabric)
    nginx.start()
    try:
        yield nginx
    finally:
        nginx.stop()
