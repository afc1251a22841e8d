"""Lists of agentless nodes that come at once: each is acted on whole, the last one stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from quarterdeck.agent.parts import Link
from quarterdeck.agent.ssh.proxy import AgentlessNodes
from quarterdeck.errors import Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.service import Services, SystemClock
from quarterdeck.settings import AgentSettings
from quarterdeck.telemetry import Telemetry
from quarterdeck.wire.agentless import AgentlessMessage, KeepAgentless
from quarterdeck.wire.codec import decode


def listed(version: str, *names: str) -> KeepAgentless:
    nodes = tuple(AgentlessMessage(id=name, name=name, place=f"u@{name}:22") for name in names)
    return KeepAgentless(version=version, nodes=nodes)


def away(_data: bytes) -> bytes:
    raise Unavailable("away", "Nobody is reached in this test.")


async def nothing() -> None:
    return


LINK = Link(
    node="hub",
    fabric=cast(Fabric, None),
    order_keys=tuple,
    refresh=nothing,
    renew=nothing,
    vouch=away,
)


async def test_two_lists_at_once_are_acted_on_one_after_the_other(tmp_path: Path) -> None:
    services = Services(lambda *_: None, SystemClock())
    settings = AgentSettings(state=str(tmp_path))
    proxy = AgentlessNodes(settings, services, Telemetry(), SystemClock())
    proxy.start(LINK, lambda: None)
    try:
        await proxy.keep(listed("first", "a", "b", "c"))
        await asyncio.gather(
            proxy.keep(listed("second", "c")), proxy.keep(listed("third", "b", "d"))
        )
        assert proxy.report().version == "third"
        doing = [name for name in services.doing() if name.startswith("agentless")]
        assert doing == ["agentless b", "agentless d"]
        kept: KeepAgentless = decode((tmp_path / "agentless.list").read_bytes(), KeepAgentless)
        assert kept.version == "third"
    finally:
        await services.stop()
