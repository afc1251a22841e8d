"""The children of `qd up`: one that keeps dying is told to the person who started it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quarterdeck.cli.children import Child, Files, Keeper, shorten
from quarterdeck.service import Services, SystemClock

DEADLINE_S = 30.0
SPAWNS = 3


async def test_a_child_that_keeps_dying_is_told_with_its_last_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path / "data")
    files.lock()
    services = Services(lambda _name, _error, _delay_s: None, SystemClock())
    spawned, enough = [], asyncio.Event()

    def changed() -> None:
        spawned.append(1)
        if len(spawned) >= SPAWNS:
            enough.set()

    keeper = Keeper(files, services, changed)
    try:
        await keeper.start(Child("server", words=["server", "--config", "/nowhere.toml"]))
        async with asyncio.timeout(DEADLINE_S):
            await enough.wait()
    finally:
        await keeper.stop()
        await services.stop()
        files.unlock()
    told = capfd.readouterr().err
    assert "server ended at once" in told
    assert "/nowhere.toml does not exist" in told


def test_a_log_is_cut_while_its_child_writes_on(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("ab", buffering=0) as child:
        child.write(b"x" * 100)
        shorten(log, 100)
        assert log.stat().st_size == 100
        child.write(b"y")
        shorten(log, 100)
        child.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "server.log.1").read_bytes() == b"x" * 100 + b"y"
