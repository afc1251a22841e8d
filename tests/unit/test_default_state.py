"""`qd agent` without `--state` has a directory of its own, private with the folder around it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from quarterdeck.agent import serve
from quarterdeck.agent.local import RealHost
from quarterdeck.cli.main import cli
from quarterdeck.settings import AgentSettings, default_data, default_state

JOIN = ("agent", "--join", "http://127.0.0.1:1", "--token", "t")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who is not root, with a data home."""
    for name in ("QD_STATE", "QD_NAME", "QD_JOIN", "QD_TOKEN", "QD_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path / "share"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[AgentSettings]:
    """The settings of the agents that would have run."""
    seen: list[AgentSettings] = []

    async def record(settings: AgentSettings, *, parent_fd: int | None) -> None:
        assert parent_fd is None
        seen.append(settings)

    monkeypatch.setattr(serve, "serve", record)
    return seen


def test_join_and_token_are_enough(home: Path, served: list[AgentSettings]) -> None:
    cli.main(JOIN, standalone_mode=False)
    assert served[0].state == str(home / "quarterdeck" / "agent")
    assert served[0].name


def test_a_given_directory_wins(tmp_path: Path, served: list[AgentSettings]) -> None:
    cli.main([*JOIN, "--state", str(tmp_path / "mine"), "--name", "web1"], standalone_mode=False)
    assert (served[0].state, served[0].name) == (str(tmp_path / "mine"), "web1")


def test_it_lies_beside_the_agents_of_qd_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_state() == f"{default_data()}/agent"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state() == "/var/lib/quarterdeck/agent"


async def test_the_directory_and_the_one_around_it_are_private() -> None:
    state = Path(default_state())
    host = RealHost(state, {})
    await host.start()
    await host.stop()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state, state.parent)} == {0o700}
