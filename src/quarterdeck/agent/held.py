"""What a machine says of its attempts, in records of the standard library alone: they are also made
where nothing else is installed (agent/ssh)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quarterdeck.agent.shim import files
from quarterdeck.core.states import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What the directory of one attempt says. `broken` is set when a file can't be read."""

    attempt: str
    accepted_at: float
    started: files.Started | None = None
    stop: files.Stop | None = None
    overdue: bool = False
    end: files.Exit | None = None
    broken: str | None = None
    facts: int = 1

    @property
    def revision(self) -> int:
        """How many facts there are, readable or not: it must never go back."""
        return self.facts + (max(self.stop.count - 1, 0) if self.stop else 0)

    @property
    def phase(self) -> Phase:
        if self.end is not None:
            return Phase.ENDED
        if self.stop is not None or self.overdue:
            return Phase.STOPPING
        return Phase.ACCEPTED if self.started is None else Phase.RUNNING


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why an attempt never starts here: the words of the first answer serve for each repeat."""

    code: str
    text: str


REVOKED = Refusal(code="revoked", text="It was called off before it began.")
"""What a tombstone without words says: that of a release, of a revoke, or of an older agent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remains:
    """What a shim that was killed left: its output, and how many processes could not be killed."""

    streams: Mapping[str, files.StreamEnd]
    survivors: int
    rebooted: bool
