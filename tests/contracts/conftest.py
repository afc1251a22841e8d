"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.fabric_server import Harbour, harbour


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    """A nats-server of its own, with an authority and whoever joins."""
    async with harbour(tmp_path) as running:
        yield running
