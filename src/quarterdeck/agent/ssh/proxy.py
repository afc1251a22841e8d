"""The machines that this node reaches over SSH for the fleet: the list, kept, and acted on.

The servers own the list and send it whole; it is written down before it is acted on, so that a
node goes on without them. What one machine does never holds up another.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from quarterdeck.agent.parts import Link
from quarterdeck.agent.ssh.node import AgentlessNode
from quarterdeck.errors import Invalid
from quarterdeck.service import Clock, Services, write_private
from quarterdeck.settings import AgentSettings
from quarterdeck.telemetry import Telemetry
from quarterdeck.wire.agentless import (
    PROBLEM_LENGTH,
    PROBLEMS,
    AgentlessMessage,
    AgentlessReport,
    KeepAgentless,
)
from quarterdeck.wire.codec import decode, encode


class AgentlessNodes:
    """`parts.Proxy` of a node with a state directory."""

    def __init__(
        self, settings: AgentSettings, services: Services, telemetry: Telemetry, clock: Clock
    ) -> None:
        self._settings = settings
        self._folder = Path(settings.state) / "agentless"
        self._file = Path(settings.state) / "agentless.list"
        self._services = services
        self._telemetry = telemetry
        self._clock = clock
        self._link: Link | None = None
        self._changed: Callable[[], None] = lambda: None
        self._version = ""
        self._nodes: dict[str, AgentlessNode] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._acting = asyncio.Lock()  # lists that come at once are acted on one after another

    def start(self, link: Link, changed: Callable[[], None]) -> None:
        """Take up the list that is written down. `changed` is called when `report` has."""
        self._link = link
        self._changed = changed
        try:
            kept: KeepAgentless = decode(self._file.read_bytes(), KeepAgentless)
        except (FileNotFoundError, Invalid):
            return  # the servers have it
        self._act_on(kept)

    async def keep(self, wanted: KeepAgentless) -> None:
        """Write the list down and act on it. Raises OSError: nothing has changed."""
        async with self._acting:
            await asyncio.to_thread(write_private, self._file, encode(wanted))
            await self._let_go(wanted)
            self._act_on(wanted)

    def report(self) -> AgentlessReport:
        """The list that is acted on, and what is not reached."""
        problems = {id: node.problem for id, node in self._nodes.items() if node.problem}
        return AgentlessReport(
            version=self._version,
            problems={
                id: text[:PROBLEM_LENGTH] for id, text in sorted(problems.items())[:PROBLEMS]
            },
            trying=tuple(sorted(id for id, node in self._nodes.items() if node.trying)[:PROBLEMS]),
        )

    def _act_on(self, wanted: KeepAgentless) -> None:
        assert self._link is not None, "not started"
        self._version = wanted.version
        for message in wanted.nodes:
            if message.id not in self._nodes:
                self._begin(message, self._link)
        self._changed()

    async def _let_go(self, wanted: KeepAgentless) -> None:
        """End what is not on the list any more, or otherwise; of what is gone we forget the key."""
        on_list = {message.id: message for message in wanted.nodes}
        for id, node in list(self._nodes.items()):
            if on_list.get(id) == node.wanted:
                continue
            self._nodes.pop(id, None)
            task = self._tasks.pop(id, None)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            if id not in on_list:
                await asyncio.to_thread(shutil.rmtree, self._folder / id, ignore_errors=True)

    def _begin(self, message: AgentlessMessage, link: Link) -> None:
        node = self._nodes[message.id] = AgentlessNode(
            message,
            folder=self._folder / message.id,
            settings=self._settings,
            link=link,
            telemetry=self._telemetry,
            clock=self._clock,
            changed=self._changed,
        )
        self._tasks[message.id] = self._services.loop(f"agentless {message.name}", node.keep_up)
