"""One `qd up` with three nodes for all tests that need nothing else, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.up import Up, running


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up")) as found:
        yield found
