"""Packages from npm that tests send or watch with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import npm
from bench.npm import NODE

__all__ = ["NODE", "installed"]


def installed(folder: Path) -> Path:
    """The `node_modules` of the package.json and the lock in a folder; skips the test when npm
    can't be reached."""
    try:
        return npm.installed(folder)
    except npm.NotInstalled as error:
        pytest.skip(str(error))
