"""Hearing that files grow: growing output is told apart from facts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quarterdeck.agent.follow import Follower

DEADLINE_S = 20.0


async def test_growing_output_is_told_apart_from_facts(tmp_path: Path) -> None:
    (tmp_path / "stdout").touch()
    told: list[str] = []
    heard = asyncio.Event()

    def hear(what: str) -> None:
        told.append(what)
        heard.set()

    follower = Follower()
    follower.start()
    watch = follower.add(tmp_path, lambda: hear("changed"), lambda: hear("output"))
    try:
        with (tmp_path / "stdout").open("ab") as output:
            output.write(b"line\n")
        await asyncio.wait_for(heard.wait(), DEADLINE_S)
        assert set(told) == {"output"}
        heard.clear()
        told.clear()
        (tmp_path / "exit.json").touch()
        with (tmp_path / "stdout").open("ab") as output:
            output.write(b"line\n")
        await asyncio.wait_for(heard.wait(), DEADLINE_S)
        assert "changed" in told
    finally:
        watch.close()
        follower.stop()
