"""One agentless node, kept up: connect, be its agent until the connection ends, and again.

Each connection is one start of the node's agent (agent/main.py) with everything that a start has:
a session, beats, orders, the attempts that are found. The node's identity lies with us, in a folder
of its own; what it runs lies on its host.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from quarterdeck.agent.ask import Asker
from quarterdeck.agent.enrol import Member
from quarterdeck.agent.main import Agent
from quarterdeck.agent.parts import Link, Parts, parts_with
from quarterdeck.agent.ssh.host import SshHost
from quarterdeck.agent.ssh.link import FarLink
from quarterdeck.agent.ssh.road import reach
from quarterdeck.errors import Unavailable
from quarterdeck.service import Backoff, Clock, Services, first_of, guarded, sentence, still_wanted
from quarterdeck.settings import AgentSettings, Secret
from quarterdeck.settings.environment import proxy_variables
from quarterdeck.telemetry import AgentlessLost, AgentlessReached, Telemetry
from quarterdeck.wire.agentless import PROOF, AgentlessMessage, vouched_part

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 20.0


class AgentlessNode:
    """`problem` says why it is not reached; empty while it is, and as long as it is only `trying`
    for the first time."""

    def __init__(
        self,
        wanted: AgentlessMessage,
        *,
        folder: Path,
        settings: AgentSettings,
        link: Link,
        telemetry: Telemetry,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.wanted = wanted
        self.problem = ""
        self.trying = True
        self._folder = folder
        self._settings = msgspec.structs.replace(
            settings, state=str(folder), name=wanted.name, labels={}, join="", token=Secret("")
        )
        self._link = link
        self._telemetry = telemetry
        self._clock = clock
        self._changed = changed
        self._far: FarLink | None = None

    async def keep_up(self) -> None:
        """Loop: see the module. Waits for the end of a connection, then a growing time."""
        backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S)
        while True:
            begun = self._clock.monotonic()
            self._say(await guarded(self._once(), sentence))
            still_wanted()
            if self._clock.monotonic() - begun > MAX_WAIT_S:
                backoff.reset()
            await asyncio.sleep(backoff.wait_s())

    async def _once(self) -> str:
        """One connection; why it ended."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._enrol()
        agent = Agent(
            self._settings, telemetry=self._telemetry, clock=self._clock, opened=self._opened
        )
        far = self._far
        assert far is not None
        try:
            return await first_of(self._begin(agent), far.until_lost())
        finally:
            await agent.stop()

    async def _begin(self, agent: Agent) -> None:
        await agent.start()
        self._say("")

    def _opened(
        self, settings: AgentSettings, services: Services, telemetry: Telemetry, clock: Clock
    ) -> Parts:
        self._far = FarLink(partial(reach, self.wanted, self._folder), services)
        host = SshHost(self._far, place=self.wanted.place, via=self._link.node)
        parts = parts_with(host, settings, services, telemetry, clock)
        return msgspec.structs.replace(parts, disk=self.wanted.place)

    async def _enrol(self) -> None:
        """Its own key, for which ours vouches; nothing is asked when it is known already."""
        asker = Asker(self._settings.server_ca, proxy_variables())
        member = Member(self._folder, self._clock, asker)
        part = vouched_part(self.wanted.id, member.key.public_key)
        proof = base64.urlsafe_b64encode(self._link.vouch(part)).decode()
        url, ca = self._link.server()
        try:
            await member.open(
                server=url,
                token=f"{PROOF}_{self.wanted.id}_{self._link.node}_{proof}",
                name=self.wanted.name,
                trusted=ca,
            )
        except OSError as error:
            raise Unavailable(
                "state_directory", f"{self._folder} can't be used: {error.strerror or error}."
            ) from error

    def _say(self, problem: str) -> None:
        if problem == self.problem and not self.trying:
            return
        self.problem, self.trying = problem, False
        place = self.wanted.place
        if problem:
            self._telemetry.emit(AgentlessLost(place=place, error=problem))
        else:
            self._telemetry.emit(AgentlessReached(place=place))
        self._changed()
